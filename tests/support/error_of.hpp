// What a task ended with, as text.
#pragma once

#include <cofferdam/core/net.hpp>

#include <exception>
#include <string>
#include <utility>

namespace cofferdam::test {

template <class T> awaitable<std::string> error_of(awaitable<T> task) {
  std::string message = "none";
  try {
    co_await std::move(task);
  } catch (const std::exception& e) {
    message = e.what();
  }
  co_return message;
}

}  // namespace cofferdam::test
