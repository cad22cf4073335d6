#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/eventsourcing/event_vault.hpp>

#include "append_operation.hpp"
#include "end_operation.hpp"
#include "postgres_rows.hpp"
#include "read_operation.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// What must not change while the batch is under way, where several may be. See postgres_schema.cpp.
void lock_for(batch& b, const append_request& request) {
  b.lock("stream/" + request.stream(), request.events().empty() ? lock_mode::shared : lock_mode::exclusive);
  for (const auto& e : request.events()) {
    for (const auto& tag : e.tags()) b.lock("tag/" + tag, lock_mode::shared);
  }
  // All tags of an item must be there, so any one of them keeps out what could match it.
  for (const auto& condition : request.conditions()) {
    if (condition.query.items().empty()) b.lock_everything();
    for (const auto& item : condition.query.items()) {
      if (item.tags().empty()) {
        b.lock_everything();
      } else {
        b.lock("tag/" + item.tags()[0]);
      }
    }
  }
}

}  // namespace

std::string expected::describe() const {
  switch (kind_) {
    case kind::none:
      return "not be there";
    case kind::exists:
      return "be there";
    case kind::exact:
      return "have version " + std::to_string(version_);
    case kind::any:
      break;
  }
  return "be as it may";
}

namespace {

bool clause_matches(const event_query::clause& c, std::string_view type, const std::vector<std::string>& tags) {
  const auto has = [&tags](const std::string& wanted) { return std::ranges::find(tags, wanted) != tags.end(); };
  return (c.types().empty() || std::ranges::find(c.types(), type) != c.types().end()) &&
         std::ranges::all_of(c.tags(), has);
}

}  // namespace

bool event_query::matches(std::string_view type, const std::vector<std::string>& tags) const {
  return items_.empty() || std::ranges::any_of(items_, [&](const clause& c) { return clause_matches(c, type, tags); });
}
bool event_query::matches(const recorded_event& e) const {
  const auto begins = [&e](const std::string& prefix) { return e.stream.starts_with(prefix); };
  return items_.empty() || std::ranges::any_of(items_, [&](const clause& c) {
           return clause_matches(c, e.type, e.tags) &&
                  (c.stream_prefixes().empty() || std::ranges::any_of(c.stream_prefixes(), begins));
         });
}
bool event_query::has_prefixes() const noexcept {
  return std::ranges::any_of(items_, [](const clause& c) { return !c.stream_prefixes().empty(); });
}

append_request& append_request::add(std::vector<event> more) & {
  events_.insert(events_.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  return *this;
}
append_request& append_request::unless(event_query query, std::uint64_t after) & {
  if (query.has_prefixes()) {
    throw storage_error(errc::event_rejected, "a condition of an append to '" + stream_ +
                                                  "' names beginnings of streams; name types and tags only");
  }
  conditions_.push_back({std::move(query), after});
  return *this;
}

append_conflict::append_conflict(errc code, std::string message, std::string stream, expected wanted,
                                 std::uint64_t actual, std::vector<recorded_event> tail)
    : storage_error(code, std::move(message)),
      stream_(std::move(stream)),
      wanted_(wanted),
      actual_(actual),
      tail_(std::move(tail)) {}

struct event_store::state {
  state(database& d, event_store_options o, const timer_service& t, std::uint64_t seed) noexcept
      : db(d), options(o), timers(t), random(seed), has_one_writer(d.has_one_writer()) {}
  database& db;
  event_store_options options;
  const timer_service& timers;  // tells the date
  random_source random;         // of event ids
  const bool has_one_writer;
  struct inline_projection {
    event_query query;
    inline_handler apply;
  };
  std::vector<inline_projection> inline_projections;
  event_vault* vault = nullptr;
};

event_store::event_store(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
event_store::event_store(event_store&&) noexcept = default;
event_store& event_store::operator=(event_store&&) noexcept = default;
event_store::~event_store() = default;
database& event_store::storage() const noexcept { return state_->db; }

awaitable<event_store> event_store::open(database& db, event_store_options options) {
  const auto executor = co_await net::this_coro::executor;
  auto schema = db.has_one_writer() ? detail::event_schema() : detail::postgres_event_schema();
  co_await db.migrate("events", std::move(schema));
  co_return event_store(std::make_unique<state>(db, options, timers_of(executor), random_of(executor)()));
}

// --------------------------------------------------------------------------------------------------------- appending

event_store& event_store::project_inline(event_query query, inline_handler h) {
  state_->inline_projections.push_back({std::move(query), std::move(h)});
  return *this;
}

void event_store::add_inline_rows(batch& b, const append_request& request) const {
  const auto& wanted = request.expects();
  const auto now = state_->timers.date();
  std::uint64_t version = wanted.what() == expected::kind::exact ? wanted.version() : 0;
  const bool knows_version = version > 0 || wanted.what() == expected::kind::exact;
  for (const event& e : request.events()) {
    recorded_event shown;
    shown.stream = request.stream();
    shown.version = knows_version ? ++version : 0;
    shown.id = e.id().value_or(event_id());
    shown.type = e.type();
    shown.schema = e.schema();
    shown.at = e.at().value_or(now);
    shown.data = e.data();
    shown.tags = e.tags();
    shown.correlation = e.correlation();
    shown.causation = e.causation();
    shown.metadata = e.metadata();
    for (const auto& projected : state_->inline_projections) {
      if (projected.query.matches(shown)) projected.apply(b, shown);
    }
  }
}

bool event_store::has_inline_rows() const noexcept { return !state_->inline_projections.empty(); }

std::shared_ptr<const appended> event_store::append(batch& b, append_request request) {
  if (has_inline_rows()) {
    for (const event& e : request.events()) {
      if (e.id()) b.require("the event " + e.id()->to_string() + " is new", detail::is_new(*e.id()));
    }
    add_inline_rows(b, request);
  }
  return add_events(b, std::move(request));
}

std::shared_ptr<const appended> event_store::add_events(batch& b, append_request request) {
  if (!state_->has_one_writer) lock_for(b, request);
  const auto added = std::make_shared<detail::append_operation>(std::move(request), state_->options, state_->random,
                                                                state_->timers.date());
  b.add(added);
  return {added, &added->result()};
}

awaitable<outcome<appended>> event_store::try_append(append_request request) {
  const bool may_repeat =
      has_inline_rows() && std::ranges::any_of(request.events(), [](const event& e) { return e.id().has_value(); });
  std::optional<append_request> again;
  if (may_repeat) again = request;
  batch b;
  std::shared_ptr<const appended> done;
  try {
    done = append(b, std::move(request));
  } catch (const storage_error& e) {
    co_return failure::current(e);
  }
  auto committed = co_await state_->db.try_commit(std::move(b));
  if (!committed && again && committed.code() == errc::condition_failed) {
    // What is there already has its rows: the append by itself says what the caller wants to hear. It cannot add
    // anything, as one of its ids is known.
    const bool is_known = co_await knows_one_of(*again);
    if (is_known) {
      batch alone;
      done = add_events(alone, *std::move(again));
      committed = co_await state_->db.try_commit(std::move(alone));
    }
  }
  if (!committed) co_return committed.why();
  co_return *done;
}

awaitable<bool> event_store::knows_one_of(const append_request& request) {
  for (const event& e : request.events()) {
    if (!e.id()) continue;
    const auto known = std::make_shared<detail::read_event_operation>(*e.id());
    co_await state_->db.read(known);
    if (known->result) co_return true;
  }
  co_return false;
}

awaitable<appended> event_store::append(append_request request) {
  auto done = co_await try_append(std::move(request));
  co_return std::move(done).value();
}
awaitable<appended> event_store::append(std::string stream, expected e, event single) {
  append_request request(std::move(stream), e);
  request.add(std::move(single));
  return append(std::move(request));
}
awaitable<appended> event_store::append(std::string stream, expected e, std::vector<event> events) {
  append_request request(std::move(stream), e);
  request.add(std::move(events));
  return append(std::move(request));
}

// ----------------------------------------------------------------------------------------------------------- reading

event_store& event_store::unseal_with(event_vault& vault) {
  state_->vault = &vault;
  return *this;
}

awaitable<slice> event_store::read_stream(std::string stream, read_options options) {
  event_vault* const vault = options.as_stored ? nullptr : state_->vault;
  const auto page = std::make_shared<detail::read_stream_operation>(std::move(stream), options);
  co_await state_->db.read(page);
  if (vault != nullptr) (void)co_await vault->try_open(page->result.events);
  co_return std::move(page->result);
}

awaitable<slice> event_store::read_all(read_options options) { return read_all(event_query(), options); }
awaitable<slice> event_store::read_all(event_query query, read_options options) {
  event_vault* const vault = options.as_stored ? nullptr : state_->vault;
  const auto page = std::make_shared<detail::read_all_operation>(query, options);
  co_await state_->db.read(page);
  // Types and tags are looked for where the events lie; the rest is seen here.
  if (query.has_prefixes()) std::erase_if(page->result.events, [&query](const auto& e) { return !query.matches(e); });
  if (vault != nullptr) (void)co_await vault->try_open(page->result.events);
  co_return std::move(page->result);
}

awaitable<std::optional<recorded_event>> event_store::read_event(event_id id) {
  event_vault* const vault = state_->vault;
  const auto one = std::make_shared<detail::read_event_operation>(id);
  co_await state_->db.read(one);
  if (vault != nullptr && one->result) (void)co_await vault->try_open({&*one->result, 1});
  co_return std::move(one->result);
}

awaitable<std::uint64_t> event_store::version_of(std::string stream) {
  const auto heads = std::make_shared<detail::read_heads_operation>(std::move(stream));
  co_await state_->db.read(heads);
  co_return heads->found.is_live() && !heads->found.is_deleted ? heads->found.version : 0;
}

awaitable<std::uint64_t> event_store::newest_position() {
  const auto heads = std::make_shared<detail::read_heads_operation>(std::string());
  co_await state_->db.read(heads);
  co_return heads->position;
}

awaitable<bool> event_store::wait_for_events(std::uint64_t position, duration limit) {
  constexpr duration soon = std::chrono::milliseconds(2);
  const auto executor = co_await net::this_coro::executor;
  auto& timers = timers_of(executor);
  const time_point until = saturating_add(timers.now(), limit);
  for (;;) {
    const std::uint64_t seen = state_->db.changes();  // before the look, so that no change falls in between
    const auto heads = std::make_shared<detail::read_heads_operation>(std::string());
    co_await state_->db.read(heads);
    if (heads->position > position) co_return true;
    const duration left = until - timers.now();
    if (left <= duration::zero()) co_return false;
    // What an append holds back may be let go by its end without success, which nobody tells.
    co_await state_->db.wait_for_change(seen, heads->has_unsettled ? std::min(soon, left) : left);
  }
}

// ------------------------------------------------------------------------------------------------ the end of streams

namespace {

/// What was made of a stream goes with it, and another life may begin behind it.
batch traces_removed(const std::string& stream) {
  batch b;
  b.execute("delete from cofferdam_snapshots where stream = $1", stream);
  b.execute("update cofferdam_streams set removed_to = first_version - 1 where name = $1", stream);
  return b;
}

}  // namespace

awaitable<void> event_store::truncate(std::string stream, std::uint64_t version) {
  return end(
      std::make_shared<detail::end_operation>(stream, expected::any(), detail::end_operation::kind::truncate, version),
      stream, {});
}
awaitable<void> event_store::remove(std::string stream, expected e) {
  return end(std::make_shared<detail::end_operation>(stream, e, detail::end_operation::kind::remove), stream,
             traces_removed(stream));
}
awaitable<void> event_store::remove_for_ever(std::string stream, expected e) {
  return end(std::make_shared<detail::end_operation>(stream, e, detail::end_operation::kind::remove_for_ever), stream,
             traces_removed(stream));
}
awaitable<void> event_store::end(std::shared_ptr<operation> how, std::string stream, batch then) {
  batch b;
  b.lock("stream/" + stream);
  b.add(std::move(how));
  b.add(std::move(then));
  co_await state_->db.commit(std::move(b));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
