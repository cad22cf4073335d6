// The event store: streams of events in one database, one order over all of them, conditions that hold.
//
//     event_store store = co_await event_store::open(db);
//     const appended done = co_await store.append("order-42", expected::none(), placed);
//     const slice page = co_await store.read_stream("order-42");
#pragma once

#include <cofferdam/eventsourcing/event.hpp>
#include <cofferdam/storage/database.hpp>

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct import_result;
class event_vault;

/// What a stream must look like for an append to happen.
class expected {
 public:
  enum class kind : std::uint8_t { any, none, exists, exact };

  [[nodiscard]] static expected any() noexcept { return {kind::any, 0}; }
  /// Nothing was ever appended to it, or it was deleted.
  [[nodiscard]] static expected none() noexcept { return {kind::none, 0}; }
  /// It has events.
  [[nodiscard]] static expected exists() noexcept { return {kind::exists, 0}; }
  /// Its last event has this version; 0: as `none`.
  [[nodiscard]] static expected version(std::uint64_t v) noexcept { return {kind::exact, v}; }

  [[nodiscard]] kind what() const noexcept { return kind_; }
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  [[nodiscard]] std::string describe() const;
  bool operator==(const expected&) const noexcept = default;

 private:
  expected(kind k, std::uint64_t v) noexcept : kind_(k), version_(v) {}
  kind kind_;
  std::uint64_t version_;
};

/// Which events: any of its items; an item is all of its tags, one of its types and one of its beginnings of stream
/// names. Without items: every event.
///
///     event_query q;
///     q.item().tag("course:c1");
///     q.item().type("student.registered").tag("student:s1");
///     q.item().stream_prefix("order-");
class event_query {
 public:
  class clause {
   public:
    /// All of these must be there.
    clause& tag(std::string t) & { return tags_.push_back(std::move(t)), *this; }
    /// One of these it must be; any if none is named.
    clause& type(std::string t) & { return types_.push_back(std::move(t)), *this; }
    /// So one of these the name of its stream must begin; as it likes if none is named.
    clause& stream_prefix(std::string p) & { return prefixes_.push_back(std::move(p)), *this; }
    [[nodiscard]] const std::vector<std::string>& tags() const noexcept { return tags_; }
    [[nodiscard]] const std::vector<std::string>& types() const noexcept { return types_; }
    [[nodiscard]] const std::vector<std::string>& stream_prefixes() const noexcept { return prefixes_; }

   private:
    std::vector<std::string> tags_, types_, prefixes_;
  };

  /// A further item.
  clause& item() & { return items_.emplace_back(); }
  [[nodiscard]] const std::vector<clause>& items() const noexcept { return items_; }
  /// But for the stream.
  [[nodiscard]] bool matches(std::string_view type, const std::vector<std::string>& tags) const;
  [[nodiscard]] bool matches(const recorded_event& e) const;
  [[nodiscard]] bool has_prefixes() const noexcept;

 private:
  std::vector<clause> items_;
};

/// One stream's share of an append.
class append_request {
 public:
  append_request(std::string stream, expected e) : stream_(std::move(stream)), expected_(e) {}

  append_request& add(event e) & { return events_.push_back(std::move(e)), *this; }
  append_request& add(std::vector<event> more) &;
  /// Nothing happens if an event that matches stands after position `after`: a condition over all streams. For
  /// uniqueness leave `after` at 0. Errors: `event_rejected` for a query with beginnings of streams.
  append_request& unless(event_query query, std::uint64_t after = 0) &;
  /// A conflict then brings the stream's events after the version that was expected.
  append_request& with_tail() & { return wants_tail_ = true, *this; }

  struct condition {
    event_query query;
    std::uint64_t after = 0;
  };
  [[nodiscard]] const std::string& stream() const noexcept { return stream_; }
  [[nodiscard]] const expected& expects() const noexcept { return expected_; }
  [[nodiscard]] const std::vector<event>& events() const noexcept { return events_; }
  [[nodiscard]] const std::vector<condition>& conditions() const noexcept { return conditions_; }
  [[nodiscard]] bool wants_tail() const noexcept { return wants_tail_; }

 private:
  friend class event_store;
  std::string stream_;
  expected expected_;
  std::vector<event> events_;
  std::vector<condition> conditions_;
  bool wants_tail_ = false;
};

/// What an append did.
struct appended {
  std::uint64_t first_version = 0, last_version = 0;  ///< of the stream; equal to its version when nothing was added
  std::uint64_t position = 0;                         ///< of the last event; the store's newest when nothing was added
  bool is_duplicate = false;  ///< these ids were there already: nothing was written, the numbers are the first ones
};

/// The stream is not as expected, or a condition over the store fails. Nothing was written.
class append_conflict : public storage_error {
 public:
  append_conflict(errc code, std::string message, std::string stream, expected wanted, std::uint64_t actual,
                  std::vector<recorded_event> tail);

  [[nodiscard]] const std::string& stream() const noexcept { return stream_; }
  [[nodiscard]] const expected& wanted() const noexcept { return wanted_; }
  /// The stream's version.
  [[nodiscard]] std::uint64_t actual() const noexcept { return actual_; }
  /// With `with_tail`, when an exact version was expected: what came after it.
  [[nodiscard]] const std::vector<recorded_event>& tail() const noexcept { return tail_; }

 private:
  std::string stream_;
  expected wanted_;
  std::uint64_t actual_;
  std::vector<recorded_event> tail_;
};

enum class direction : std::uint8_t { forward, backward };

struct read_options {
  std::uint64_t from = 0;     ///< first version or position to read; 0: from the beginning, or backward from the end
  std::size_t limit = 1'000;  ///< events in one page
  std::size_t max_bytes = 16 * 1024 * 1024;  ///< a page ends early when its data is larger
  direction order = direction::forward;
  bool as_stored = false;  ///< sealed fields stay so: see `event_store::unseal_with`
};

/// One page.
struct slice {
  std::vector<recorded_event> events;
  std::uint64_t version = 0;        ///< of a stream: its last event's, 0 when there is no such stream
  std::uint64_t first_version = 1;  ///< of a stream: reads begin here; what was before was truncated or moved out
  std::uint64_t scanned_to = 0;     ///< of the whole store: everything up to here was looked at, matching or not
  bool is_end = false;              ///< there was nothing more to read
};

struct event_store_options {
  std::size_t max_events = 10'000;                 ///< in one append
  std::size_t max_event_bytes = 16 * 1024 * 1024;  ///< data and metadata of one event
  std::size_t max_tags = 1'000;                    ///< of one event
};

/// Thread safety: every member from any thread. Refers to the database, and to the execution context that opened it:
/// both must outlive it.
///
/// Appending is all or nothing. Checks, in this order: limits; the stream was not deleted for ever; ids that are there
/// already; the expected version; conditions. Errors of every append: `append_conflict` (`version_conflict`,
/// `append_condition_failed`), `storage_error` (`stream_deleted`, `event_id_reused`, `event_rejected`, and what a
/// commit can end with).
class event_store {
 public:
  using inline_handler = std::function<void(batch&, const recorded_event&)>;

  /// Makes or updates the tables. Errors: `storage_error`.
  [[nodiscard]] static awaitable<event_store> open(database& db, event_store_options options = {});

  event_store(event_store&&) noexcept;
  event_store& operator=(event_store&&) noexcept;
  ~event_store();

  // --- appending
  [[nodiscard]] awaitable<appended> append(std::string stream, expected e, event single);
  [[nodiscard]] awaitable<appended> append(std::string stream, expected e, std::vector<event> events);
  [[nodiscard]] awaitable<appended> append(append_request request);
  /// As `append`; a conflict is a value.
  [[nodiscard]] awaitable<outcome<appended>> try_append(append_request request);
  /// Joins `b`: happens with everything else in it, or not at all. What was appended is in the result once `b` has been
  /// committed. One stream may come several times; later requests see what earlier ones added.
  /// Errors: throws `storage_error` (`event_rejected`).
  std::shared_ptr<const appended> append(batch& b, append_request request);

  /// From now on what `h` adds for an event is part of every batch in which this object appends such an event: rows
  /// that are there as soon as the events are. Setting up; before others use the object.
  /// `h` is asked before the commit: the position is not known yet (0), nor the version where none is expected, nor an
  /// id that was not given. A batch that joins with ids that are there already ends with `condition_failed`; `append`
  /// by itself tells of a duplicate as always.
  event_store& project_inline(event_query query, inline_handler h);

  // --- reading
  /// From now on what was sealed is opened before anybody sees it: by reads, and so by repositories, subscriptions,
  /// projections and consumer groups on this object. Setting up; refers to the vault, which must outlive it.
  /// Fields whose key was forgotten are null, and `recorded_event::forgotten` names them. Of an event that cannot be
  /// opened (`recorded_event::unopened`) decoding and handling fail with `event_undecodable`. Files,
  /// archives, the tail of a conflict and what an `event_log` publishes stay sealed.
  event_store& unseal_with(event_vault& vault);
  /// One page of one stream, from version `options.from` on.
  [[nodiscard]] awaitable<slice> read_stream(std::string stream, read_options options = {});
  /// One page of the whole store, from position `options.from` on, in the order of commits: an event that is visible is
  /// never preceded by one that becomes visible later.
  [[nodiscard]] awaitable<slice> read_all(read_options options = {});
  [[nodiscard]] awaitable<slice> read_all(event_query query, read_options options = {});
  /// The event with this id, if there is one.
  [[nodiscard]] awaitable<std::optional<recorded_event>> read_event(event_id id);
  /// 0 when there is no such stream.
  [[nodiscard]] awaitable<std::uint64_t> version_of(std::string stream);
  /// Position of the newest event of all, 0 without any.
  [[nodiscard]] awaitable<std::uint64_t> newest_position();

  // --- the end of streams
  /// Reads begin at `version` from now on. Versions go on counting; `read_all` still shows what is before. A repository
  /// needs a snapshot of what goes, or a first event that sums it up.
  [[nodiscard]] awaitable<void> truncate(std::string stream, std::uint64_t version);
  /// As truncating everything: the stream is as if it were none, but for its next version. Appending brings it back.
  /// Its snapshots go.
  [[nodiscard]] awaitable<void> remove(std::string stream, expected e = expected::any());
  /// For ever: every later append fails with `stream_deleted`.
  [[nodiscard]] awaitable<void> remove_for_ever(std::string stream, expected e = expected::any());

  /// Waits until something was committed after `position`, or the time is over. Returns whether.
  /// Cancellation: any type, as `database::wait_for_change`.
  [[nodiscard]] awaitable<bool> wait_for_events(std::uint64_t position, duration limit);

  [[nodiscard]] database& storage() const noexcept;

 private:
  struct state;
  explicit event_store(std::unique_ptr<state> s) noexcept;
  awaitable<void> end(std::shared_ptr<operation> how, std::string stream, batch then);
  void add_inline_rows(batch& b, const append_request& request) const;
  std::shared_ptr<const appended> add_events(batch& b, append_request request);
  [[nodiscard]] bool has_inline_rows() const noexcept;
  awaitable<bool> knows_one_of(const append_request& request);
  friend awaitable<import_result> import_events(event_store& store, std::istream& in);
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
