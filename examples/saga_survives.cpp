// A saga whose process is killed in the middle of a step, and goes on in one of two others, which work at once.
// Usage: saga_survives [database url], by default a file of its own; such as postgresql://user@host/name.
#include "saga_survives.hpp"

#include <cofferdam/core/spawn.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

constexpr int killed = 128;

/// A process of its own.
pid_t start_process(const std::string& url, bool dies) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    net::io_context context(1);
    const auto live = [&]() -> awaitable<void> {
      database db = co_await database::open(url);
      saga::engine_options options;
      options.lease = 2s;  // how long the silence of a worker is waited for; 15 s when not in a hurry
      saga::engine engine = co_await saga::engine::open(db, options);
      parcels::worker w{dies};
      parcels::define(engine, w);
      if (dies) (void)co_await engine.start("parcel-7", parcels::send, std::string("tea"));
      const auto work = [&engine] { return engine.run(); };
      const auto working = spawn(co_await net::this_coro::executor, work);
      const auto box = co_await engine.find<std::string>("parcel-7").result();
      std::printf("another: %s\n", box.c_str());
      co_await working.stop();
    };
    spawn(context, live);
    try {
      context.run();
    } catch (const std::exception& e) {
      std::printf("%s\n", e.what());
      std::fflush(stdout);
      ::_exit(1);
    }
    std::fflush(stdout);
    ::_exit(0);
  }
  return child;
}

/// Of a process that has ended: 0, its exit code, or that of a process that was killed.
int end_of(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? killed : WEXITSTATUS(status);
}

}  // namespace

int main(int argc, char** argv) {
  const auto file = std::filesystem::temp_directory_path() / ("saga_survives-" + std::to_string(::getpid()) + ".db");
  const std::string url = argc > 1 ? argv[1] : "sqlite:" + file.string();
  const bool was_killed = end_of(start_process(url, true)) == killed;
  std::printf("the first process was %s\n", was_killed ? "killed" : "not killed");
  const pid_t one = start_process(url, false), other = start_process(url, false);
  const bool are_well = end_of(one) + end_of(other) == 0;  // one has packed, both were told
  for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(file.string() + end);
  return was_killed && are_well ? 0 : 1;
}
