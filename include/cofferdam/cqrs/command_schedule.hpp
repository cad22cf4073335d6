// Commands that are sent later: stored with whatever else a batch holds, sent when their time has come, once.
//
//     command_schedule later = co_await command_schedule::open(db, commands);
//     later.add<cancel_unpaid>();
//     later.schedule(b, cancel_unpaid{order}, in_an_hour, "unpaid " + order);  // b: the batch that stores the order
//     later.cancel(b2, "unpaid " + order);                                     // b2: the one that stores the payment
//     co_await later.run();
#pragma once

#include <cofferdam/cqrs/command_bus.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct command_schedule_options {
  std::uint32_t max_attempts = 5;                          ///< of a command that fails; then it is kept as failed
  duration retry_after = std::chrono::seconds(1);          ///< the first time, then doubled, to 64 times as much
  duration claim = std::chrono::seconds(30);               ///< renewed meanwhile; a sender silent for so long is gone
  std::size_t concurrency = 8;                             ///< commands on their way at once
  duration look_at_least_every = std::chrono::seconds(5);  ///< when no commit is heard of
};

struct scheduled_command {
  std::string id, command, payload;  ///< the payload as JSON
  std::chrono::system_clock::time_point due;
  std::uint32_t attempts = 0;
  std::string reason;  ///< why it failed the last time
};

/// Any number of processes may run one schedule. Commands are sent with a key of their own, so that one whose sender
/// died is not handled twice: the bus must heed keys (`command_bus::once`), on whichever database. Both drivers.
/// Thread safety: setting up: none; else every member from any thread. Refers to database and bus, and to the execution
/// context that opened it: all must outlive it.
class command_schedule {
 public:
  /// Makes or updates the table. Errors: `storage_error`; std::logic_error for a bus without `once`.
  [[nodiscard]] static awaitable<command_schedule> open(database& db, command_bus& bus,
                                                        command_schedule_options options = {});

  /// `C` may be scheduled: it needs a `name` that stays the same, `to_json` and `from_json`.
  template <command C> command_schedule& add() {
    static_assert(requires { std::string(C::name); }, "a command that is stored needs `static constexpr auto name`");
    add(C::name, [](command_bus& bus, const std::string& payload, command_context& context) {
      return send<C>(bus, payload, context);
    });
    return *this;
  }

  /// Adds to `b` that `c` is to be sent when it is `due`, with tenant, principal, correlation and causation of
  /// `context`.
  /// @param id  replaces what is scheduled under it; made up if empty. Returns the id.
  /// Errors: std::logic_error for a command that was not added.
  template <command C>
  std::string schedule(batch& b, const C& c, std::chrono::system_clock::time_point due, std::string id = {},
                       const command_context& context = {}) {
    return store(b, C::name, nlohmann::json(c).dump(), due, std::move(id), context);
  }
  /// Adds to `b` that nothing is scheduled under `id` any more.
  void cancel(batch& b, std::string id);

  /// Sends what is due, as it becomes due, until it is cancelled. Errors: none of the commands'; the database's are
  /// waited out.
  [[nodiscard]] awaitable<void> run();
  /// Sends what is due now. Returns how many commands succeeded. Errors: `storage_error`.
  [[nodiscard]] awaitable<std::size_t> run_due();

  /// What waits for its time, soonest first.
  [[nodiscard]] awaitable<std::vector<scheduled_command>> waiting(std::size_t limit = 100);
  /// What was given up after `max_attempts`.
  [[nodiscard]] awaitable<std::vector<scheduled_command>> failed(std::size_t limit = 100);
  /// Sends what failed again, now. False when there is no such.
  [[nodiscard]] awaitable<bool> retry(std::string id);

 private:
  using sender = std::function<awaitable<void>(command_bus&, const std::string&, command_context&)>;
  struct state;
  struct due_command;
  struct crew;
  class turn;
  class in_hand;
  explicit command_schedule(std::shared_ptr<state> s) noexcept : state_(std::move(s)) {}

  template <class C>
  static awaitable<void> send(command_bus& bus, const std::string& payload, command_context& context) {
    const C c = nlohmann::json::parse(payload).template get<C>();
    (void)co_await bus.send(c, context);
  }

  void add(std::string name, sender s);
  std::string store(batch& b, const std::string& name, std::string payload, std::chrono::system_clock::time_point due,
                    std::string id, const command_context& context);
  awaitable<std::size_t> work(bool goes_on);
  awaitable<void> serve(crew& all);
  awaitable<due_command*> take(crew& all);
  awaitable<bool> send_one(due_command& one);
  awaitable<void> renew_claims(crew& all);
  awaitable<void> find_due(crew& all);
  awaitable<duration> until_next();
  [[nodiscard]] std::int64_t claim_end() const;
  awaitable<std::vector<scheduled_command>> list(bool has_failed, std::size_t limit);

  std::shared_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
