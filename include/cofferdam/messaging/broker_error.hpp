// What went wrong with a broker, told apart by what to do about it.
#pragma once

#include <cofferdam/core/error.hpp>

#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// A broker in trouble, or set up otherwise than the program thinks.
///
/// | code | what happened |
/// |---|---|
/// | `broker_unavailable` | no connection, no answer in time, no room: try again |
/// | `broker_refuses_login` | wrong credentials, or no permission for this topic |
/// | `topic_missing` | there is no such topic, or no stream takes this subject |
class broker_error : public error {
 public:
  broker_error(errc code, std::string message) : error(code, nullptr), message_(std::move(message)) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
