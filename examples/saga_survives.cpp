// A saga whose process is killed in the middle of a step, and goes on in another one.
// Usage: saga_survives [database url], by default a file of its own; such as postgresql://user@host/name.
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/engine.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

struct worker {
  bool dies = false;  // while it packs
};

awaitable<std::string> pick(saga::step_context& context, std::string item) {
  std::printf("%s: pick %s\n", context.get<worker>().dies ? "first" : "second", item.c_str());
  co_return item;
}
awaitable<std::string> pack(saga::step_context& context, std::string item) {
  const bool dies = context.get<worker>().dies;
  std::printf("%s: pack %s, key %s\n", dies ? "first" : "second", item.c_str(), context.idempotency_key().c_str());
  std::fflush(stdout);
  if (dies) std::raise(SIGKILL);
  co_return "box of " + item;
}
constexpr auto pick_item = saga::step<"pick", &pick>;
constexpr auto pack_item = saga::step<"pack", &pack>;

saga::task<std::string> send(saga::scope& s, std::string item) {
  const auto picked = co_await s.run(pick_item, item);
  co_return co_await s.run(pack_item, picked);
}

/// A process of its own; returns whether it was killed.
bool run_process(const std::string& url, bool dies) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    net::io_context context(1);
    const auto live = [&]() -> awaitable<void> {
      database db = co_await database::open(url);
      saga::engine_options options;
      options.lease = 500ms;  // how long the silence of a worker is waited for; 15 s when not in a hurry
      saga::engine engine = co_await saga::engine::open(db, options);
      worker w{dies};
      engine.provide(w);
      engine.define("send", send, pick_item, pack_item);
      if (dies) (void)co_await engine.start("parcel-7", send, std::string("tea"));
      const auto work = [&engine] { return engine.run(); };
      const auto working = spawn(co_await net::this_coro::executor, work);
      const auto box = co_await engine.find<std::string>("parcel-7").result();
      std::printf("second: %s\n", box.c_str());
      working.cancel();
      co_await sleep_for(100ms);
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
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status);
}

}  // namespace

int main(int argc, char** argv) {
  const auto file = std::filesystem::temp_directory_path() / ("saga_survives-" + std::to_string(::getpid()) + ".db");
  const std::string url = argc > 1 ? argv[1] : "sqlite:" + file.string();
  const bool was_killed = run_process(url, true);
  std::printf("the first process was %s\n", was_killed ? "killed" : "not killed");
  const bool second_too = run_process(url, false);
  for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(file.string() + end);
  return was_killed && !second_too ? 0 : 1;
}
