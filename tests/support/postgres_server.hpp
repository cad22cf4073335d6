// A PostgreSQL server of the tests' own: a direct child in a temporary directory, gone with the program.
#pragma once

#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/storage/database.hpp>

#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
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

  [[nodiscard]] std::string url() const {
    return "postgresql://tester@/postgres?host=" + directory_.file("") +
           (port_ == 0 ? "" : "&port=" + std::to_string(port_));
  }

  /// Where its programs are.
  [[nodiscard]] const std::string& programs() const noexcept { return programs_; }

  void start() {
    const auto launch = [this] {
      std::vector<std::string> command{programs_ + "/postgres",  "-D", data(),      "-k",
                                       directory_.file(""),      "-c", "fsync=off", "-c",
                                       "log_min_messages=fatal", "-c"};
      if (port_ == 0) {
        command.emplace_back("listen_addresses=");
      } else {
        command.insert(command.end(), {"listen_addresses=127.0.0.1", "-c", "ssl=on", "-p", std::to_string(port_)});
      }
      return spawn_as_postgres(std::move(command));
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
  /// From now on at a port of 127.0.0.1, too, with passwords and TLS only. Connections so far are dropped.
  /// @return the port. The server gets copies of the files.
  int serve_tls(const std::string& certificate, const std::string& key) {
    std::filesystem::copy_file(certificate, data() + "/server.crt");
    std::filesystem::copy_file(key, data() + "/server.key");
    std::filesystem::permissions(data() + "/server.key", std::filesystem::perms(0600));
    if (::getuid() == 0 &&
        wait_for(spawn({"chown", "postgres", data() + "/server.key", data() + "/server.crt"})) != 0) {
      throw std::runtime_error("chown");
    }
    std::ofstream(data() + "/pg_hba.conf") << "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    stop(SIGINT);
    port_ = free_port();
    start();
    return port_;
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

  /// One that the system gives away: nobody else gets it soon.
  static int free_port() {
    const int taken = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    auto* const address = reinterpret_cast<sockaddr*>(&at);
    const bool is_found = ::bind(taken, address, size) == 0 && ::getsockname(taken, address, &size) == 0;
    ::close(taken);
    if (!is_found) throw std::runtime_error("no port is free");
    return ntohs(at.sin_port);
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
  int port_ = 0;  // 0: only a socket in the directory
};

}  // namespace cofferdam::test
