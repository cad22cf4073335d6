// What the database says a saga is: "waiting", say, or "none" where there is no such saga.
#pragma once

#include <cofferdam/saga/engine.hpp>

#include <string>
#include <utility>

namespace cofferdam::test {

inline awaitable<std::string> state_of(database& db, std::string id) {
  const rows found = co_await db.query("select state from cofferdam_sagas where id = $1", std::move(id));
  if (found.empty()) co_return "none";
  co_return std::string(to_string(static_cast<saga::saga_state>(found.front().get<int>(0))));
}

}  // namespace cofferdam::test
