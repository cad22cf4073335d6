#include <cofferdam/messaging/nats_process.hpp>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

extern char** environ;

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

int free_port() {
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  const bool is_bound = ::bind(s, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                        ::getsockname(s, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(s);
  if (!is_bound) throw std::runtime_error("no free port for nats-server");
  return ntohs(address.sin_port);
}

}  // namespace

std::string nats_process::program() {
  for (const char* path : {"/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"}) {
    if (std::filesystem::exists(path)) return path;
  }
  return {};
}

nats_process::nats_process(std::string directory, std::string settings)
    : directory_(std::move(directory)), settings_(std::move(settings)), port_(free_port()) {
  start();
}
nats_process::~nats_process() { stop(SIGKILL); }

std::string nats_process::url() const { return "nats://127.0.0.1:" + std::to_string(port_); }

void nats_process::start() {
  const std::string path = directory_ + "/server.conf";
  std::ofstream file(path);
  file << "listen: \"127.0.0.1:" << port_ << "\"\njetstream { store_dir: \"" << directory_ << "/js\" }\n"
       << settings_ << "\n";
  file.close();
  const std::string where = program();
  if (where.empty()) throw std::runtime_error("no nats-server here: apt-get install nats-server");
  std::vector<std::string> words{"nats-server", "-c", path};
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  const int failed = ::posix_spawn(&process_, where.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error("cannot start " + where);
  for (int attempt = 0; attempt < 2'000; ++attempt) {
    if (answers()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  throw std::runtime_error("the NATS server does not answer");
}

void nats_process::pause() const {
  ::kill(process_, SIGSTOP);
  int status = 0;  // it goes on for a moment: until it has stopped
  while (::waitpid(process_, &status, WUNTRACED) < 0 && errno == EINTR) {
  }
}
void nats_process::resume() const { ::kill(process_, SIGCONT); }

void nats_process::stop(int signal) {
  if (process_ <= 0) return;
  ::kill(process_, signal);
  int status = 0;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = 0;
}

/// A server greets with INFO.
bool nats_process::answers() const {
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(port_);
  char greeting[4] = {};
  const bool is_there = ::connect(s, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
                        ::recv(s, greeting, sizeof greeting, MSG_WAITALL) == 4;
  ::close(s);
  return is_there && std::string(greeting, 4) == "INFO";
}

}  // namespace cofferdam::inline COFFERDAM_ABI
