// Aggregates: a state that is the sum of its stream's events, and decisions that add to them.
//
//     struct account {
//       using event = std::variant<opened, deposited, withdrawn>;
//       std::int64_t balance = 0;
//       void apply(const opened&) {}
//       void apply(const deposited& e) { balance += e.amount; }
//       void apply(const withdrawn& e) { balance -= e.amount; }
//     };
//     repository<account> accounts(store, codec, "account-");
//     const auto withdraw = [&](const account& a) { ... return std::vector<account::event>{withdrawn{5}}; };
//     const auto left = co_await accounts.decide("ada", withdraw);  // .state, .version, .position
#pragma once

#include <cofferdam/core/task.hpp>
#include <cofferdam/eventsourcing/event_codec.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace detail {
template <class A, class Event>
concept applies = requires(A state, const Event& e) { state.apply(e); };
template <class A, class Variant> inline constexpr bool applies_each = false;
template <class A, class... Events>
inline constexpr bool applies_each<A, std::variant<Events...>> = (applies<A, Events> && ...);
}  // namespace detail

/// Default-constructible state with a variant of its events and an `apply` for each.
template <class A>
concept aggregate = std::default_initializable<A> && detail::applies_each<A, typename A::event>;

struct repository_options {
  std::uint32_t max_attempts = 3;     ///< of a decision that meets a conflict; then the conflict is thrown
  std::uint64_t snapshot_every = 0;   ///< events between two snapshots of a stream; 0: none
  std::uint32_t snapshot_schema = 1;  ///< of the state's form; snapshots of another are not used
  bool ignore_unknown = false;        ///< events of types the aggregate does not have; else `event_undecodable`
  /// The first event left of a truncated stream says all that those before it did; else `events_missing`.
  bool begins_with_summary = false;
};

namespace detail {

struct found_snapshot {
  std::uint64_t version = 0;  ///< 0: none
  std::string data;
};
awaitable<found_snapshot> load_snapshot(database& db, std::string stream, std::uint32_t schema);
/// Errors: none; a snapshot that cannot be stored is made another time.
awaitable<void> save_snapshot(database& db, std::string stream, std::uint32_t schema, std::uint64_t version,
                              std::string data);
[[noreturn]] void raise_unknown(const recorded_event& e);
/// The version that the stream had when it was removed, 0 if never: the next one begins anew.
awaitable<std::uint64_t> removed_version(database& db, std::string stream);
[[noreturn]] void raise_missing(const std::string& stream, std::uint64_t first_version);

template <class A>
concept has_snapshots = requires(const A& state, nlohmann::json data) {
  nlohmann::json(state);
  { data.get<A>() } -> std::same_as<A>;
};

}  // namespace detail

/// Thread safety: as the store. Refers to store and codec, which must outlive it.
template <aggregate A> class repository {
 public:
  using event_type = typename A::event;
  struct loaded {
    A state;
    std::uint64_t version = 0;   ///< 0: no events
    std::uint64_t position = 0;  ///< of the newest event, for who waits for a projection; 0 where it was moved out
    bool has_sealed = false;     ///< some of it can be forgotten, so no snapshot is kept of it
  };

  repository(event_store& store, const event_codec& codec, std::string prefix, repository_options options = {})
      : store_(&store), codec_(&codec), prefix_(std::move(prefix)), options_(options) {}

  /// Adds to every event that a decision makes: tags, correlation, a metadata.
  repository& decorate(std::function<void(event&, const event_type&)> change) {
    decorate_ = std::move(change);
    return *this;
  }
  /// As that by a coroutine, and after it: to seal what can be forgotten (`event_vault`), say.
  repository& seal(std::function<awaitable<void>(event&, const event_type&)> change) {
    seal_ = std::move(change);
    return *this;
  }

  /// The state now, from the newest snapshot and what came after it.
  /// Errors: `storage_error` (`event_undecodable` names the event; `events_missing` when the stream was truncated or
  /// moved out further than the newest snapshot of this form reaches).
  [[nodiscard]] awaitable<loaded> load(std::string id) {
    loaded present;
    const std::string stream = prefix_ + id;
    if constexpr (detail::has_snapshots<A>) {
      if (options_.snapshot_every > 0) {
        auto snapshot = co_await detail::load_snapshot(store_->storage(), stream, options_.snapshot_schema);
        start_from(snapshot, present);
      }
    }
    const bool is_baseline = present.version > 0;
    const std::uint64_t head = co_await catch_up(stream, present);
    if (is_baseline && head < present.version) {  // the events were restored from an older backup: start anew
      present = {};
      co_await catch_up(stream, present);
    }
    co_return present;
  }

  /// Loads, asks `decide(const A&)` for the events that follow, and appends them if nothing else came in between;
  /// otherwise applies what came and asks again. No events: nothing is written.
  /// @param decide  returns std::vector<A::event>; what it throws ends the call unchanged.
  /// Errors: `append_conflict` after `max_attempts`, and those of `load`. Returns the new state.
  template <class Decide>
    requires std::convertible_to<std::invoke_result_t<Decide&, const A&>, std::vector<event_type>>
  [[nodiscard]] awaitable<loaded> decide(std::string id, Decide&& decide) {
    COFFERDAM_GUARD_TASK(Decide);
    return run<std::decay_t<Decide>>(std::move(id), std::forward<Decide>(decide));
  }
  /// As `decide`, where the events go with something else: a message, rows, a command that happens once. Commits
  /// nothing itself.
  /// @param commit  awaitable<receipt>(batch, const loaded& next): may add to the batch that has the events, and must
  ///                commit it, also where nothing was decided and it is empty. `next` is what will be, but for the
  ///                position. Called again after a conflict; what else it throws ends the call unchanged.
  template <class Decide, class Commit>
    requires std::convertible_to<std::invoke_result_t<Decide&, const A&>, std::vector<event_type>> &&
             std::same_as<std::invoke_result_t<Commit&, batch, const loaded&>, awaitable<receipt>>
  [[nodiscard]] awaitable<loaded> decide(std::string id, Decide&& decide, Commit&& commit) {
    COFFERDAM_GUARD_TASK(Decide);
    COFFERDAM_GUARD_TASK(Commit);
    return run_with<std::decay_t<Decide>, std::decay_t<Commit>>(std::move(id), std::forward<Decide>(decide),
                                                                std::forward<Commit>(commit));
  }

 private:
  template <class Decide> awaitable<loaded> run(std::string id, Decide decide) {
    loaded present = co_await load(id);
    for (std::uint32_t attempt = 1;; ++attempt) {
      const std::vector<event_type> decided = decide(std::as_const(present.state));
      if (decided.empty()) co_return present;
      std::vector<event> made = encode(decided);
      if (seal_) present.has_sealed |= co_await seal_each(made, decided);
      auto request = request_for(id, present, std::move(made));
      const auto done = co_await store_->try_append(std::move(request));
      if (done) {
        const std::uint64_t before = present.version;
        for (const auto& e : decided) apply(present.state, e);
        co_await reach(prefix_ + id, before, *done, present);
        co_return present;
      }
      if (attempt >= options_.max_attempts || done.code() != errc::version_conflict) done.why().raise();
      co_await catch_up(prefix_ + id, present);
    }
  }

  template <class Decide, class Commit> awaitable<loaded> run_with(std::string id, Decide decide, Commit commit) {
    loaded present = co_await load(id);
    for (std::uint32_t attempt = 1;; ++attempt) {
      const std::vector<event_type> decided = decide(std::as_const(present.state));
      loaded next = present;
      for (const auto& e : decided) apply(next.state, e);
      next.version += decided.size();
      batch b;
      std::shared_ptr<const appended> done;
      if (!decided.empty()) {
        std::vector<event> made = encode(decided);
        if (seal_) next.has_sealed |= co_await seal_each(made, decided);
        auto request = request_for(id, present, std::move(made));
        done = store_->append(b, std::move(request));
      }
      bool is_late = false;
      try {
        (void)co_await commit(std::move(b), std::as_const(next));
      } catch (const append_conflict& e) {
        is_late = e.code() == errc::version_conflict && e.stream() == prefix_ + id;
        if (!is_late || attempt >= options_.max_attempts) throw;
      }
      if (!is_late) {
        if (done) co_await reach(prefix_ + id, present.version, *done, next);
        co_return next;
      }
      co_await catch_up(prefix_ + id, present);
    }
  }

  [[nodiscard]] std::vector<event> encode(const std::vector<event_type>& decided) const {
    std::vector<event> made;
    for (const auto& e : decided) {
      made.push_back(codec_->encode_variant(e));
      if (decorate_) decorate_(made.back(), e);
    }
    return made;
  }
  /// Returns whether there was something to seal.
  awaitable<bool> seal_each(std::vector<event>& made, const std::vector<event_type>& decided) const {
    bool has_sealed = false;
    for (std::size_t i = 0; i < made.size(); ++i) {
      co_await seal_(made[i], decided[i]);
      has_sealed |= made[i].is_sealed();
    }
    co_return has_sealed;
  }
  [[nodiscard]] append_request request_for(const std::string& id, const loaded& present,
                                           std::vector<event> made) const {
    append_request request(prefix_ + id, expected::version(present.version));
    request.add(std::move(made));
    return request;
  }
  /// What was decided has happened.
  awaitable<void> reach(std::string stream, std::uint64_t before, appended done, loaded& next) {
    next.version = done.last_version;
    next.position = done.position;
    if constexpr (detail::has_snapshots<A>) co_await snapshot(std::move(stream), before, next);
    co_return;
  }

  static void apply(A& state, const event_type& e) {
    std::visit([&state](const auto& alternative) { state.apply(alternative); }, e);
  }

  /// Returns the stream's version, of whatever it has.
  awaitable<std::uint64_t> catch_up(std::string stream, loaded& present) {
    for (;;) {
      // A snapshot does not say where its newest event stands, which is why that is read again.
      const bool is_placed = present.version == 0 || present.position > 0;
      read_options options;
      options.from = present.version + (is_placed ? 1 : 0);
      slice page = co_await store_->read_stream(stream, options);
      if (page.first_version > present.version + 1) {
        const std::uint64_t removed = co_await detail::removed_version(store_->storage(), stream);
        const bool is_new_life = removed > present.version;
        if (!is_new_life && !options_.begins_with_summary) detail::raise_missing(stream, page.first_version);
        present = {A(), is_new_life ? removed : page.first_version - 1};
        continue;
      }
      for (const auto& e : page.events) {
        present.position = e.position;
        present.has_sealed |= e.was_sealed;
        if (e.version <= present.version) continue;
        const auto decoded = codec_->decode<event_type>(e);
        if (decoded) apply(present.state, *decoded);
        if (!decoded && !options_.ignore_unknown) detail::raise_unknown(e);
        present.version = e.version;
      }
      if (page.is_end) co_return page.version;
    }
  }

  void start_from(const detail::found_snapshot& snapshot, loaded& present) const {
    if (snapshot.version == 0) return;
    const auto data = nlohmann::json::parse(snapshot.data, nullptr, false);
    try {
      present.state = data.template get<A>();
      present.version = snapshot.version;
    } catch (const nlohmann::json::exception&) {
      present = {};  // of another form: the events say it all
    }
  }

  awaitable<void> snapshot(std::string stream, std::uint64_t before, const loaded& present) {
    const std::uint64_t every = options_.snapshot_every;
    if (every == 0 || present.has_sealed || before / every == present.version / every) co_return;
    std::string data = nlohmann::json(present.state).dump();
    co_await detail::save_snapshot(store_->storage(), std::move(stream), options_.snapshot_schema, present.version,
                                   std::move(data));
  }

  event_store* store_;
  const event_codec* codec_;
  std::string prefix_;
  repository_options options_;
  std::function<void(event&, const event_type&)> decorate_;
  std::function<awaitable<void>(event&, const event_type&)> seal_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
