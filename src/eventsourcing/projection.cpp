#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/eventsourcing/event_subscription.hpp>
#include <cofferdam/eventsourcing/projection.hpp>

#include "follower.hpp"

#include <optional>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {

projection::projection(event_store& store, std::string name, projection_options options)
    : store_(&store), name_(std::move(name)), options_(options) {}

projection& projection::filter(event_query query) {
  query_ = std::move(query);
  return *this;
}
projection& projection::apply(handler h) {
  handler_ = std::move(h);
  return *this;
}

awaitable<std::uint64_t> projection::start() {
  if (!handler_) throw std::logic_error("the projection '" + name_ + "' has nothing to apply: call apply() first");
  // Looks first: a commit in vain would wake whoever waits for changes, `run` itself too, over and over.
  const rows begun =
      co_await store_->storage().query("select position from cofferdam_projections where name = $1", name_);
  if (!begun.empty()) co_return begun.front().get<std::uint64_t>(0);
  batch b;
  b.execute("insert into cofferdam_projections(name, position) values($1, 0) on conflict do nothing", name_);
  co_await store_->storage().commit(std::move(b));
  co_return co_await position();
}

awaitable<std::uint64_t> projection::position() {
  const rows found =
      co_await store_->storage().query("select position from cofferdam_projections where name = $1", name_);
  co_return found.empty() ? 0 : found.front().get<std::uint64_t>(0);
}

/// As `position`, once a batch of ours of which nothing was heard has ended.
awaitable<std::uint64_t> projection::settled_position() {
  batch b;
  b.lock("projection/" + name_);
  b.require("'" + name_ + "' is there still", "select count(*) > 0 from cofferdam_projections where name = $1", name_);
  const std::size_t look = b.execute("select position from cofferdam_projections where name = $1", name_);
  const receipt seen = co_await store_->storage().commit(std::move(b));
  co_return seen[look].front().get<std::uint64_t>(0);
}

awaitable<void> projection::run() {
  const auto executor = co_await net::this_coro::executor;
  backoff_options pauses;
  pauses.cap = options_.look_at_least_every;
  backoff_state paused;
  std::uint32_t troubles = 0;
  std::optional<std::uint64_t> done;
  for (;;) {
    try {
      if (!done) {
        done = co_await start();  // once: where somebody ends this table for good, it shall not begin anew
      } else if (troubles > 0) {
        done = co_await settled_position();
      }
      (void)co_await catch_up_from(*done);
      troubles = 0;
      (void)co_await store_->wait_for_events(*done, options_.look_at_least_every);
    } catch (const storage_error& e) {
      if (!detail::is_trouble(e.code())) throw;
      ++troubles;
    }
    if (troubles > 0) co_await sleep_for(backoff_delay(pauses, troubles, paused, random_of(executor)));
  }
}

awaitable<std::size_t> projection::catch_up() {
  std::uint64_t done = co_await start();
  co_return co_await catch_up_from(done);
}

awaitable<std::size_t> projection::catch_up_from(std::uint64_t& done) {
  std::size_t applied = 0;
  event_subscription_options paging;
  paging.page = options_.page;
  event_subscription events(*store_, query_, done, paging);
  for (;;) {
    const auto page = co_await events.next_page();
    const std::uint64_t to = events.position();
    if (to == done) co_return applied;
    stream_set parked = co_await parked_streams();
    co_await apply_all(done, page, to, parked);
    applied += page.size();
    done = to;
  }
}

/// The batch that moves the position on, if nobody else did.
batch projection::moved(std::uint64_t from, std::uint64_t to) const {
  batch b;
  b.lock("projection/" + name_);
  b.require_change("'" + name_ + "' is followed by nobody else",
                   "update cofferdam_projections set position = $3 where name = $1 and position = $2", name_, from, to);
  return b;
}

/// Applies `events`. One that fails is looked for by halves, so that the others cost few commits.
/// @param parked  streams of which something is put aside: what follows of them is, too.
awaitable<void> projection::apply_all(std::uint64_t from, std::span<const recorded_event> events, std::uint64_t to,
                                      stream_set& parked) {
  batch b = moved(from, to);
  failure why;
  for (const recorded_event& e : events) {
    if (parked.contains(e.stream)) {
      b.require("something of '" + e.stream + "' is put aside",
                "select count(*) > 0 from cofferdam_parked where projection = $1 and stream = $2", name_, e.stream);
      park(b, e, {});
      continue;
    }
    try {
      e.require_opened();
      handler_(b, e);
    } catch (const std::exception& error) {
      why = failure::current(error);
    } catch (...) {
      why = failure::current();
    }
    if (why) break;
  }
  if (!why) {
    const auto done = co_await store_->storage().try_commit(std::move(b));
    if (done) co_return;
    why = done.why();
    const bool is_the_events = co_await is_their_fault(why, from);
    if (!is_the_events) why.raise();
  }
  if (events.size() > 1) {
    const std::size_t middle = events.size() / 2;
    const std::uint64_t half = events[middle - 1].position;
    co_await apply_all(from, events.first(middle), half, parked);
    co_await apply_all(half, events.subspan(middle), to, parked);
    co_return;
  }
  if (!options_.parks_failures || events.empty()) why.raise();
  const recorded_event& failed = events.front();
  if (parked.contains(failed.stream)) {
    parked = co_await parked_streams();
    if (parked.contains(failed.stream)) why.raise();  // there is no more room
    co_await apply_all(from, events, to, parked);     // its stream was replayed or given up meanwhile
    co_return;
  }
  batch aside = moved(from, to);
  park(aside, failed, why.message());
  co_await store_->storage().commit(std::move(aside));
  parked.insert(failed.stream);
}

/// Whether an event cannot be applied; else the database is in trouble, or somebody else follows under this name.
awaitable<bool> projection::is_their_fault(failure why, std::uint64_t from) {
  if (why.is_cancellation()) co_return false;
  if (why.code() != errc::condition_failed) {
    co_return why.code() == errc::constraint_violated || why.code() == errc::invalid_statement || !is_ours(why.code());
  }
  const std::uint64_t now = co_await position();
  co_return now == from;  // so it was no condition of ours
}

// ----------------------------------------------------------------------------------------------------------- parking

awaitable<projection::stream_set> projection::parked_streams() {
  stream_set parked;
  if (!options_.parks_failures) co_return parked;
  const rows found =
      co_await store_->storage().query("select distinct stream from cofferdam_parked where projection = $1", name_);
  for (const row r : found) parked.insert(r.get<std::string>(0));
  co_return parked;
}

void projection::park(batch& b, const recorded_event& e, std::string reason) const {
  b.require("'" + name_ + "' has put aside no more than max_parked = " + std::to_string(options_.max_parked),
            "select count(*) < $2 from cofferdam_parked where projection = $1", name_, options_.max_parked);
  b.execute("insert into cofferdam_parked(projection, stream, position, reason) values($1, $2, $3, $4)", name_,
            e.stream, e.position, std::move(reason));
}

awaitable<std::vector<parked_event>> projection::parked() {
  const rows found = co_await store_->storage().query(
      "select position, stream, reason from cofferdam_parked where projection = $1 order by position", name_);
  std::vector<parked_event> all;
  for (const row r : found) {
    recorded_event e;
    e.position = r.get<std::uint64_t>(0);
    e.stream = r.get<std::string>(1);
    auto there = co_await detail::find_event(*store_, e.position);
    if (there) e = *std::move(there);
    all.push_back({std::move(e), r.get<std::string>(2)});
  }
  co_return all;
}

awaitable<std::size_t> projection::replay(std::string stream) {
  for (std::size_t applied = 0;; ++applied) {
    const rows found = co_await store_->storage().query(
        "select min(position) from cofferdam_parked where projection = $1 and stream = $2", name_, stream);
    const auto position = found.front().get<std::optional<std::uint64_t>>(0);
    if (!position) co_return applied;
    const recorded_event e = co_await detail::require_parked(*store_, *position, name_);
    batch b;
    b.lock("projection/" + name_);
    b.require_change("it is still put aside",
                     "delete from cofferdam_parked where projection = $1 and stream = $2 and position = $3", name_,
                     stream, *position);
    e.require_opened();
    handler_(b, e);
    co_await store_->storage().commit(std::move(b));
  }
}

awaitable<std::size_t> projection::discard(std::string stream) {
  batch b;
  b.lock("projection/" + name_);
  b.execute("delete from cofferdam_parked where projection = $1 and stream = $2", name_, std::move(stream));
  const receipt done = co_await store_->storage().commit(std::move(b));
  co_return done[0].affected();
}

awaitable<bool> projection::wait_for(std::uint64_t wanted, duration limit) {
  return detail::wait_for_position(*this, store_->storage(), wanted, limit);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
