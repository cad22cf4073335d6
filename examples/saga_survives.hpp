// The saga of saga_survives.cpp.
#pragma once

#include <cofferdam/saga/engine.hpp>

#include <csignal>
#include <cstdio>
#include <map>
#include <string>

namespace parcels {

using namespace cofferdam;

struct worker {
  bool dies = false;  // while it packs
  bool is_silent = false;
  std::map<std::string, std::string> boxes{};  // by idempotency key
};

inline awaitable<std::string> pick(saga::step_context& context, std::string item) {
  auto& w = context.get<worker>();
  if (!w.is_silent) std::printf("%s: pick %s\n", w.dies ? "first" : "another", item.c_str());
  co_return item;
}
inline awaitable<std::string> pack(saga::step_context& context, std::string item) {
  auto& w = context.get<worker>();
  const std::string key = context.idempotency_key();
  if (!w.is_silent) std::printf("%s: pack %s, key %s\n", w.dies ? "first" : "another", item.c_str(), key.c_str());
  std::fflush(stdout);
  if (w.dies) std::raise(SIGKILL);
  w.boxes.emplace(key, "box of " + item);
  co_return "box of " + item;
}
constexpr auto pick_item = saga::step<"pick", &pick>;
constexpr auto pack_item = saga::step<"pack", &pack>;

inline saga::task<std::string> send(saga::scope& s, std::string item) {
  const auto picked = co_await s.run(pick_item, item);
  co_return co_await s.run(pack_item, picked);
}

inline void define(saga::engine& engine, worker& w) {
  engine.provide(w);
  engine.define("send", send, pick_item, pack_item);
}

}  // namespace parcels
