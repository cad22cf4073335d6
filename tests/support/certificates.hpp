// Certificates of the tests' own, made by the openssl program.
#pragma once

#include "temporary_directory.hpp"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace cofferdam::test {

/// An authority, and what it signed.
class certificates {
 public:
  /// False, with a word why, where there is no openssl.
  static bool can_be_made() {
    const bool is_here = std::system("openssl version >/dev/null 2>&1") == 0;  // NOLINT: a test
    if (!is_here) std::puts("no openssl here, tests of TLS are skipped: apt-get install openssl");
    return is_here;
  }

  certificates() {
    openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout " +
            directory_.file("ca.key") + " -out " + ca());
  }

  [[nodiscard]] std::string ca() const { return directory_.file("ca.pem"); }
  [[nodiscard]] std::string certificate(const std::string& name) const { return directory_.file(name + ".pem"); }
  [[nodiscard]] std::string key(const std::string& name) const { return directory_.file(name + ".key"); }

  /// For a server at 127.0.0.1, or a client.
  void sign(const std::string& name) const {
    const std::string request = directory_.file(name + ".csr"), names = directory_.file(name + ".ext");
    openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + name + " -keyout " + key(name) +
            " -out " + request);
    std::FILE* const file = std::fopen(names.c_str(), "w");
    std::fputs("subjectAltName=IP:127.0.0.1,DNS:localhost\n", file);
    std::fclose(file);
    openssl("x509 -req -days 2 -CAcreateserial -in " + request + " -CA " + ca() + " -CAkey " +
            directory_.file("ca.key") + " -extfile " + names + " -out " + certificate(name));
  }

 private:
  static void openssl(const std::string& command) {
    const int failed = std::system(("openssl " + command + " >/dev/null 2>&1").c_str());  // NOLINT: a test
    if (failed != 0) throw std::runtime_error("openssl " + command);
  }
  temporary_directory directory_;
};

}  // namespace cofferdam::test
