// A NATS server with JetStream of the tests' own, on a free port of the loopback: a direct child, gone with the
// program.
#pragma once

#include "temporary_directory.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

extern char** environ;

namespace cofferdam::test {

class nats_process {
 public:
  /// False, with a word why, where there is no server.
  static bool is_here() {
#if !defined(COFFERDAM_TEST_NATS)
    std::puts("built without NATS, its tests are skipped: apt-get install libnats-dev");
    return false;
#else
    for (const char* path : {"/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"}) {
      if (std::filesystem::exists(path)) return true;
    }
    std::puts("no NATS server here, its tests are skipped: apt-get install nats-server");
    return false;
#endif
  }

  /// @param settings  more lines of the server's configuration.
  explicit nats_process(std::string settings = {}) : settings_(std::move(settings)), port_(free_port()) { start(); }
  nats_process(const nats_process&) = delete;
  nats_process& operator=(const nats_process&) = delete;
  ~nats_process() { stop(SIGKILL); }

  [[nodiscard]] std::string url() const { return "nats://127.0.0.1:" + std::to_string(port_); }

  void start() {
    std::ofstream file(directory_.file("server.conf"));
    file << "listen: \"127.0.0.1:" << port_ << "\"\njetstream { store_dir: \"" << directory_.file("js") << "\" }\n"
         << settings_ << "\n";
    file.close();
    const std::string path = directory_.file("server.conf");
    std::vector<std::string> words{"nats-server", "-c", path};
    std::vector<char*> arguments;
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    const char* program = std::filesystem::exists("/usr/sbin/nats-server") ? "/usr/sbin/nats-server" : "nats-server";
    const int failed = ::posix_spawnp(&process_, program, &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw std::runtime_error("cannot start nats-server");
    for (int attempt = 0; attempt < 2'000; ++attempt) {
      if (answers()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    throw std::runtime_error("the NATS server does not answer");
  }
  void pause() const { ::kill(process_, SIGSTOP); }
  void resume() const { ::kill(process_, SIGCONT); }
  void stop(int with) {
    if (process_ <= 0) return;
    ::kill(process_, with);
    int status = 0;
    while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    process_ = 0;
  }

 private:
  static sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
  }
  static int free_port() {
    const int s = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    const bool is_bound = ::bind(s, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                          ::getsockname(s, reinterpret_cast<sockaddr*>(&address), &size) == 0;
    ::close(s);
    if (!is_bound) throw std::runtime_error("no free port");
    return ntohs(address.sin_port);
  }
  /// A server greets with INFO.
  [[nodiscard]] bool answers() const {
    const int s = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = loopback(port_);
    char greeting[4] = {};
    const bool is_there = ::connect(s, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
                          ::recv(s, greeting, sizeof greeting, MSG_WAITALL) == 4;
    ::close(s);
    return is_there && std::string(greeting, 4) == "INFO";
  }

  temporary_directory directory_;
  std::string settings_;
  int port_ = 0;
  pid_t process_ = 0;
};

}  // namespace cofferdam::test
