// A NATS server with JetStream of one's own, on a free port of the loopback: for tests and for scenarios in real time.
#pragma once

#include <cofferdam/core/config.hpp>

#include <string>

namespace cofferdam::inline COFFERDAM_ABI {

/// A direct child, gone with this object. Thread safety: none.
class nats_process {
 public:
  /// Where the server's program is; empty where none is installed.
  [[nodiscard]] static std::string program();

  /// Starts it. @param directory  of its own; what is stored there stays when it is stopped.
  /// @param settings  more lines of its configuration.
  /// Errors: std::runtime_error when there is no program, or it does not answer.
  explicit nats_process(std::string directory, std::string settings = {});
  nats_process(const nats_process&) = delete;
  nats_process& operator=(const nats_process&) = delete;
  ~nats_process();

  [[nodiscard]] std::string url() const;
  /// Again after `stop`, on the same port; returns when it answers.
  void start();
  /// Sends a signal, such as SIGKILL, and waits for the end.
  void stop(int signal);
  /// It neither answers nor ends until it goes on.
  void pause() const;
  void resume() const;

 private:
  [[nodiscard]] bool answers() const;

  std::string directory_, settings_;
  int port_ = 0, process_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
