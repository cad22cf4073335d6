#include <cofferdam/eventsourcing/blue_green.hpp>

#include "follower.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// It becomes a part of statements.
std::string required_name(std::string name) {
  const auto is_allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  const bool begins_well = !name.empty() && (name[0] < '0' || name[0] > '9');
  if (!begins_well || name.size() > 50 || !std::ranges::all_of(name, is_allowed)) {
    throw std::invalid_argument("'" + name + "' names no view: 1 to 50 letters, digits and '_', no digit first");
  }
  return name;
}

}  // namespace

blue_green_projection::blue_green_projection(event_store& store, std::string name, std::uint32_t version,
                                             projection_options options)
    : store_(&store),
      name_(required_name(std::move(name))),
      version_(version),
      table_(table_of(version)),
      follower_(store, table_, options) {
  if (version == 0) throw std::invalid_argument("versions of '" + name_ + "' count from 1");
}

blue_green_projection& blue_green_projection::filter(event_query query) {
  follower_.filter(std::move(query));
  return *this;
}
blue_green_projection& blue_green_projection::create(creator c) {
  create_ = std::move(c);
  return *this;
}
blue_green_projection& blue_green_projection::apply(handler h) {
  follower_.apply([h = std::move(h), table = table_](batch& b, const recorded_event& e) { h(b, e, table); });
  return *this;
}

awaitable<std::uint32_t> blue_green_projection::active() {
  const rows found = co_await store_->storage().query("select active from cofferdam_blue_green where name = $1", name_);
  co_return found.empty() ? 0 : found.front().get<std::uint32_t>(0);
}

awaitable<std::uint64_t> blue_green_projection::position() {
  // In one look: between two of them another version may have taken over.
  const rows found = co_await store_->storage().query(
      "select p.position from cofferdam_blue_green b join cofferdam_projections p on p.name = b.name || '_v' || "
      "b.active where b.name = $1",
      name_);
  co_return found.empty() ? 0 : found.front().get<std::uint64_t>(0);
}

awaitable<bool> blue_green_projection::wait_for(std::uint64_t wanted, duration limit) {
  return detail::wait_for_position(*this, store_->storage(), wanted, limit);
}

/// Table and position, empty, where they are not there yet; the view too if it is the first version.
awaitable<void> blue_green_projection::begin() {
  if (!create_) throw std::logic_error("the table of '" + name_ + "' cannot be made: call create() first");
  const std::uint32_t now = co_await active();
  if (now > version_) {
    throw storage_error(errc::schema_mismatch, "version " + std::to_string(now) + " of '" + name_ +
                                                   "' is active, this program has " + std::to_string(version_) +
                                                   "; run a newer program");
  }
  const rows begun = co_await store_->storage().query("select 1 from cofferdam_projections where name = $1", table_);
  if (!begun.empty()) co_return;
  batch b;
  b.execute("insert into cofferdam_projections(name, position) values($1, 0)", table_);
  create_(b, table_);
  if (now == 0) {
    b.execute("insert into cofferdam_blue_green(name, active) values($1, $2)", name_, version_);
    b.execute("create view " + name_ + " as select * from " + table_);
  }
  const auto made = co_await store_->storage().try_commit(std::move(b));
  if (made) co_return;
  // Another process may have been faster.
  const rows since = co_await store_->storage().query("select 1 from cofferdam_projections where name = $1", table_);
  if (since.empty()) made.why().raise();
}

/// False while the old version is further: readers never go back in time.
awaitable<bool> blue_green_projection::take_over(std::uint32_t from) {
  const std::string old = table_of(from);
  batch b;
  // As their followers do: what one of them has under way is seen, or comes too late.
  b.lock("projection/" + table_);
  b.lock("projection/" + old);
  b.require("'" + table_ + "' is as far as '" + old + "', which is active",
            "select count(*) > 0 from cofferdam_blue_green where name = $1 and active = $2 and (select position from "
            "cofferdam_projections where name = $3) >= coalesce((select position from cofferdam_projections where name "
            "= $4), 0)",
            name_, from, table_, old);
  b.execute("update cofferdam_blue_green set active = $2 where name = $1", name_, version_);
  b.execute("drop view " + name_);
  b.execute("create view " + name_ + " as select * from " + table_);
  // Those between were begun and never finished.
  for (std::uint32_t former = std::max(from, 1U); former < version_; ++former) {
    // Without its position a former follower's next batch is refused.
    b.execute("delete from cofferdam_projections where name = $1", table_of(former));
    b.execute("delete from cofferdam_parked where projection = $1", table_of(former));
    b.execute("drop table if exists " + table_of(former));
  }
  const auto done = co_await store_->storage().try_commit(std::move(b));
  if (!done && done.code() != errc::condition_failed) done.why().raise();
  co_return done.has_value();
}

awaitable<std::size_t> blue_green_projection::catch_up() {
  co_await begin();
  for (std::size_t applied = 0;;) {
    applied += co_await follower_.catch_up();
    const std::uint32_t now = co_await active();
    if (now >= version_) co_return applied;
    const bool is_over = co_await take_over(now);
    if (is_over) co_return applied;
  }
}

awaitable<void> blue_green_projection::run() {
  (void)co_await catch_up();
  co_await follower_.run();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
