// A PostgreSQL server of the tests' own: a direct child in a temporary directory, gone with the program.
#pragma once

#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/storage/database.hpp>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace cofferdam::test {

class postgres_server {
 public:
  /// The one of this program; null, with a word why, where PostgreSQL is not installed.
  static postgres_server* shared() {
    static const std::unique_ptr<postgres_server> server = make();
    return server.get();
  }

  explicit postgres_server(std::string programs) : programs_(std::move(programs)) {
    std::filesystem::create_directory(data());
    if (::getuid() == 0) {  // the server refuses to run as root
      std::filesystem::permissions(directory_.file("."), std::filesystem::perms(0755));
      if (wait_for(spawn({"chown", "postgres", directory_.file("."), data()})) != 0) throw std::runtime_error("chown");
    }
    const int made = wait_for(spawn_as_postgres(
        {programs_ + "/initdb", "-D", data(), "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"}));
    if (made != 0) throw std::runtime_error("initdb failed");
    start();
  }
  postgres_server(const postgres_server&) = delete;
  postgres_server& operator=(const postgres_server&) = delete;
  ~postgres_server() { stop(SIGINT); }

  [[nodiscard]] std::string url() const { return "postgresql://tester@/postgres?host=" + directory_.file(""); }

  /// Where its programs are.
  [[nodiscard]] const std::string& programs() const noexcept { return programs_; }

  void start() {
    const auto launch = [this] {
      return spawn_as_postgres({programs_ + "/postgres", "-D", data(), "-k", directory_.file(""), "-c",
                                "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=fatal"});
    };
    process_ = launch();
    for (int attempt = 0; attempt < 4'000; ++attempt) {
      if (answers()) return;
      // It ends at once while processes of one that was killed still hold their memory.
      if (::waitpid(process_, nullptr, WNOHANG) == process_) process_ = launch();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    throw std::runtime_error("the PostgreSQL server does not answer");
  }
  /// SIGINT: in order, dropping who is connected. SIGQUIT: as a crash.
  void stop(int with) {
    if (process_ <= 0) return;
    ::kill(process_, with);
    wait_for(std::exchange(process_, 0));
  }

  /// To the server and all its processes, SIGSTOP and SIGCONT say.
  void signal(int which) const {
    std::vector<pid_t> all{process_};
    std::ifstream children("/proc/" + std::to_string(process_) + "/task/" + std::to_string(process_) + "/children");
    for (pid_t child = 0; children >> child;) all.push_back(child);
    for (const pid_t each : all) ::kill(each, which);
  }

  /// Drops what the tests before made.
  void clear() {
    const auto drop = [](std::string where) -> awaitable<void> {
      database db = co_await database::open(std::move(where));
      batch b;
      b.execute("drop schema public cascade");
      b.execute("create schema public");
      co_await db.commit(std::move(b));
      co_await db.close();
    };
    run_in_real_time(drop, url());
  }

 private:
  static std::unique_ptr<postgres_server> make() {
#if !defined(COFFERDAM_TEST_POSTGRES)
    std::puts("built without PostgreSQL, its tests are skipped: apt-get install libpq-dev");
    return nullptr;
#endif
    for (const char* version : {"17", "16", "15", "14"}) {
      const std::string programs = std::string("/usr/lib/postgresql/") + version + "/bin";
      if (std::filesystem::exists(programs + "/initdb")) return std::make_unique<postgres_server>(programs);
    }
    std::puts("no PostgreSQL here, its tests are skipped: apt-get install postgresql-15");
    return nullptr;
  }

  [[nodiscard]] std::string data() const { return directory_.file("data"); }

  [[nodiscard]] bool answers() const {
    const auto open = [](std::string where) -> awaitable<void> {
      database db = co_await database::open(std::move(where));
      co_await db.close();
    };
    try {
      run_in_real_time(open, url());
      return true;
    } catch (const storage_error&) {
      return false;
    }
  }

  static pid_t spawn_as_postgres(std::vector<std::string> command) {
    if (::getuid() == 0) {
      const std::vector<std::string> prefix{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
                                            "--pdeathsig=KILL"};
      command.insert(command.begin(), prefix.begin(), prefix.end());
    }
    return spawn(std::move(command));
  }
  static pid_t spawn(std::vector<std::string> command) {
    std::vector<char*> arguments;
    for (auto& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    pid_t process = 0;
    const int failed = ::posix_spawnp(&process, arguments[0], &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw std::runtime_error("cannot start " + command[0]);
    return process;
  }
  static int wait_for(pid_t process) {
    int status = 0;
    while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
  }

  temporary_directory directory_;
  std::string programs_;
  pid_t process_ = 0;
};

}  // namespace cofferdam::test
