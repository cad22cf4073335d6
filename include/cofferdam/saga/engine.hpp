// The engine: runs sagas, writes down what they do, takes them up again where another process left them, and undoes
// what they did when they fail.
//
//     saga::engine engine = co_await saga::engine::open(db);
//     engine.provide(inventory);
//     engine.define("order.place", place_order, reserve_stock, charge_card);
//     spawn(executor, [&] { return engine.run(); });
//     auto order = co_await engine.start("order-42", place_order, o);
//     const receipt r = co_await order.result();
#pragma once

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/saga/check.hpp>
#include <cofferdam/saga/detail/child.hpp>
#include <cofferdam/storage/database.hpp>

#include <nlohmann/json.hpp>

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

enum class saga_state : std::uint8_t {
  running,
  waiting,       ///< for a time or a signal; in nobody's memory
  compensating,  ///< what it did is being undone
  completed,
  compensated,  ///< failed or cancelled, and all is undone
  stuck,        ///< waits for an operator
  paused,       ///< by an operator
  abandoned,    ///< given up by an operator: effects may remain
};
[[nodiscard]] std::string_view to_string(saga_state s) noexcept;
[[nodiscard]] constexpr bool is_final(saga_state s) noexcept {
  return s == saga_state::completed || s == saga_state::compensated || s == saga_state::abandoned;
}

struct engine_options {
  std::uint32_t max_attempts = 4;                    ///< of a step that does not say, if its saga can go back
  duration step_timeout = std::chrono::seconds(30);  ///< of an attempt whose step does not say; 0: none
  backoff_options backoff{.cap = std::chrono::seconds(30)};
  backoff_options undo_backoff{.cap = std::chrono::minutes(5)};
  std::uint32_t attention_after = 10;             ///< attempts, then an event tells
  duration lease = std::chrono::seconds(15);      ///< without a sign of life a worker's sagas go to others
  duration park_after = std::chrono::seconds(2);  ///< a rest between attempts, from which on it leaves the memory
  std::size_t max_active = 10'000;                ///< sagas that run here at once; others wait to be claimed
  std::uint32_t max_claims = 5;                   ///< takeovers without progress; then the saga is stuck
  std::size_t max_payload = 1024 * 1024;          ///< bytes of arguments, a result, a signal
};

struct start_options {
  duration deadline = duration::max();  ///< from the start; without its pivot by then the saga goes back
};

struct saga_event {
  enum class kind : std::uint8_t {
    started,
    claimed,         ///< taken over by this engine
    step_succeeded,  ///< `key`
    attempt_failed,  ///< `key`, `attempt`, `message`
    step_failed,     ///< `key`, `message`
    attention,       ///< an action or undo has failed `attempt` times and goes on
    parked,          ///< waits and left the memory
    aborted,         ///< goes back; `message` says why
    undone,          ///< `key`
    undo_failed,     ///< `key`, `attempt`, `message`
    completed,
    compensated,
    stuck,  ///< `message` says why; an operator is needed
    lost,   ///< another owner has it now, or the journal cannot be written
  };
  kind what;
  std::string id, definition, key;
  std::uint32_t attempt = 0;
  std::string message;
};

/// A name with a version: sagas go on with the version they began with.
struct definition_name {
  definition_name(const char* n, std::uint32_t v = 1) : name(n), version(v) {}             // NOLINT: as literals
  definition_name(std::string n, std::uint32_t v = 1) : name(std::move(n)), version(v) {}  // NOLINT
  std::string name;
  std::uint32_t version;
};

namespace detail {

class engine_state;

/// How a saga ended.
struct ending {
  saga_state state = saga_state::running;
  std::string reason;
  nlohmann::json output;
  std::exception_ptr cause;  // where this process knows it
};

/// Told when a saga ends in this process.
class completion;

[[noreturn]] void raise(const std::string& id, ending how);

/// A saga without a journal, in the coroutine of its caller.
class saga_here {
 public:
  saga_here(std::shared_ptr<engine_state> engine, std::string id, duration deadline);
  saga_here(const saga_here&) = delete;
  saga_here& operator=(const saga_here&) = delete;
  ~saga_here();
  [[nodiscard]] instance& saga() const noexcept { return *saga_; }
  [[nodiscard]] const std::string& id() const noexcept;
  /// Runs it, and undoes what it did when it fails. Returns how it ended; what it yields is in `root`.
  awaitable<ending> run(branch_base& root);

 private:
  std::shared_ptr<instance> saga_;
};

}  // namespace detail

/// A saga that was started. A value.
template <class T> class handle {
 public:
  handle(std::shared_ptr<detail::engine_state> engine, std::string id, std::shared_ptr<detail::completion> done)
      : engine_(std::move(engine)), id_(std::move(id)), done_(std::move(done)) {}

  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  /// Waits for the end. A saga that is stuck is waited for: it may go on.
  /// Errors: `saga_error` (`saga_compensated`, `saga_abandoned`). Cancellation: ends the wait, not the saga.
  [[nodiscard]] awaitable<T> result();

 private:
  std::shared_ptr<detail::engine_state> engine_;
  std::string id_;
  std::shared_ptr<detail::completion> done_;
};

/// Thread safety: define and provide before anything is started; the rest from any thread. Refers to the database,
/// which must outlive it.
///
/// Every saga runs on a strand of its own. A step's intent is durable before its action begins, in one commit with the
/// outcome of the step before; a saga of N steps takes N + 1 commits, fewer where some only read. An owner that lost a
/// saga cannot write to it: each commit checks its epoch.
class engine {
 public:
  /// Without a journal: what is not done when the process ends is lost. For sagas of one request, and for tests.
  explicit engine(engine_options options = {});
  /// With a journal in `db`. Errors: `storage_error`.
  [[nodiscard]] static awaitable<engine> open(database& db, engine_options options = {});

  template <class T> engine& provide(T& service) {
    registry().provide(service);
    return *this;
  }
  /// Makes a body known under a name, with every step it may run. Errors: std::logic_error, for two definitions of one
  /// name and version, or two steps of one name.
  template <class Out, class In, class... Steps>
  engine& define(definition_name name, task<Out> (*body)(scope&, In), const Steps&... steps) {
    auto made = detail::define_body(std::move(name.name), name.version, body);
    (made.add(steps.describe()), ...);
    add(std::move(made));
    return *this;
  }
  /// Makes a chain known.
  template <class Chain>
    requires requires(const Chain& c) { c.define(std::uint32_t{}); }
  engine& define(const Chain& chain, std::uint32_t version = 1) {
    add(chain.define(version));
    return *this;
  }

  /// Starts a saga, unless it was started before: then it is the same one again, with the deadline it has. Durable when
  /// it returns.
  /// Errors: `saga_error` (`saga_conflict`: the id belongs to another one); `storage_error`; std::logic_error when the
  /// body was not defined.
  template <class Out, class In, class Given>
  [[nodiscard]] awaitable<handle<Out>> start(std::string id, task<Out> (*body)(scope&, In), Given&& input,
                                             start_options options = {}) {
    COFFERDAM_GUARD_TASK(Given);
    return begin<Out>(std::move(id), known(reinterpret_cast<detail::plain_function>(body)),
                      detail::stored_input<std::decay_t<In>>(std::forward<Given>(input)), options);
  }
  template <class Chain, class Given>
    requires requires(const Chain& c) { c.define(std::uint32_t{}); }
  [[nodiscard]] awaitable<handle<typename Chain::results>> start(std::string id, const Chain& chain, Given&& input,
                                                                 start_options options = {}) {
    COFFERDAM_GUARD_TASK(Given);
    return begin<typename Chain::results>(std::move(id), known(chain.name()),
                                          detail::stored_input<typename Chain::input>(std::forward<Given>(input)),
                                          options);
  }

  /// Starts a saga and waits for its end. Without a journal it runs in the caller's coroutine, needs no definition, and
  /// the caller's cancellation makes it go back.
  /// Errors: `saga_error` (`saga_compensated`, ...), and those of `start`.
  template <class Out, class In, class Given>
  [[nodiscard]] awaitable<Out> execute(std::string id, task<Out> (*body)(scope&, In), Given&& input,
                                       start_options options = {}) {
    COFFERDAM_GUARD_TASK(Given);
    if (has_journal()) return finish(start(std::move(id), body, std::forward<Given>(input), options));
    return here<Out, In>(std::move(id), body, std::decay_t<In>(std::forward<Given>(input)), options);
  }
  template <class Chain, class Given>
    requires requires(const Chain& c) { c.define(std::uint32_t{}); }
  [[nodiscard]] awaitable<typename Chain::results> execute(std::string id, const Chain& chain, Given&& input,
                                                           start_options options = {}) {
    COFFERDAM_GUARD_TASK(Given);
    if (has_journal()) return finish(start(std::move(id), chain, std::forward<Given>(input), options));
    return chain.run_here(state_, std::move(id), typename Chain::input(std::forward<Given>(input)), options.deadline);
  }
  /// A saga that was started before, by anyone.
  template <class Out> [[nodiscard]] handle<Out> find(std::string id) { return {state_, std::move(id), nullptr}; }

  /// Sends a signal to a saga. Kept until the saga asks for it; one `message_id` counts once a saga.
  /// Errors: `saga_error` (`saga_not_found`; `saga_wrong_state` when it has ended); `storage_error`.
  template <class T>
  [[nodiscard]] awaitable<void> signal(std::string id, std::string name, T&& payload, std::string message_id = {}) {
    COFFERDAM_GUARD_TASK(T);
    return send(std::move(id), std::move(name), nlohmann::json(std::forward<T>(payload)), std::move(message_id));
  }
  /// Makes a saga go back. It hears of it at its next step; an attempt that runs here is cancelled.
  /// Errors: `saga_error` (`saga_not_found`, `saga_wrong_state`, `saga_past_pivot`).
  [[nodiscard]] awaitable<void> cancel(std::string id, std::string reason);

  /// Takes up sagas that are due, whoever left them, until it is cancelled; then hands back those that run here, at a
  /// boundary between two steps, after what they do at the moment.
  [[nodiscard]] awaitable<void> run();
  /// As `run`, but returns when nothing runs here and nothing is due. Returns how many sagas it took up.
  [[nodiscard]] awaitable<std::size_t> run_due();

  /// Whether the definitions given so far would continue every saga that is on its way as it began. Replays each as far
  /// as its journal goes; performs nothing, writes nothing.
  [[nodiscard]] awaitable<check_report> check();
  /// The same of one history as `admin::export_history` makes it, also of a saga that has ended: then its body must end
  /// in the same way. Needs no database. Nothing: they agree. Errors: `saga_error` (`saga_undecodable`).
  [[nodiscard]] awaitable<std::optional<saga_drift>> check(nlohmann::json history);

  [[nodiscard]] event_channel<saga_event>& events() noexcept;
  /// Sagas in memory here.
  [[nodiscard]] std::size_t active() const;

  // --- for tests of crashes, see testing.hpp
  [[nodiscard]] const std::shared_ptr<detail::engine_state>& state() const noexcept { return state_; }

 private:
  template <class T> friend class handle;
  explicit engine(std::shared_ptr<detail::engine_state> state) noexcept : state_(std::move(state)) {}

  [[nodiscard]] bool has_journal() const noexcept;
  [[nodiscard]] services& registry() noexcept;
  void add(detail::definition made);
  [[nodiscard]] const detail::definition& known(detail::plain_function body) const;
  [[nodiscard]] const detail::definition& known(std::string_view chain) const;
  [[nodiscard]] static awaitable<std::shared_ptr<detail::completion>> start_saga(
      std::shared_ptr<detail::engine_state> state, std::string id, const detail::definition& what, nlohmann::json input,
      start_options options);
  awaitable<void> send(std::string id, std::string name, nlohmann::json payload, std::string message_id);

  template <class Out>
  awaitable<handle<Out>> begin(std::string id, const detail::definition& what, nlohmann::json input,
                               start_options options) {
    auto done = co_await start_saga(state_, id, what, std::move(input), options);
    co_return handle<Out>(state_, std::move(id), std::move(done));
  }
  template <class Out> static awaitable<Out> finish(awaitable<handle<Out>> starting) {
    auto started = co_await std::move(starting);
    co_return co_await started.result();
  }
  template <class Out, class In>
  awaitable<Out> here(std::string id, task<Out> (*body)(scope&, In), std::decay_t<In> input, start_options options) {
    detail::saga_here saga(state_, std::move(id), options.deadline);
    detail::typed_branch<Out, In> root(detail::branch_of<Out, In>(saga.saga(), {}, body, {std::move(input)}));
    auto how = co_await saga.run(root);
    if (how.state != saga_state::completed) detail::raise(saga.id(), std::move(how));
    if constexpr (!std::is_void_v<Out>) co_return root.take_value();
  }

  std::shared_ptr<detail::engine_state> state_;
};

namespace detail {
awaitable<ending> wait_for_end(std::shared_ptr<engine_state> engine, std::string id, std::shared_ptr<completion> done);
}  // namespace detail

template <class T> awaitable<T> handle<T>::result() {
  auto how = co_await detail::wait_for_end(engine_, id_, done_);
  if (how.state != saga_state::completed) detail::raise(id_, std::move(how));
  if constexpr (!std::is_void_v<T>) co_return how.output.template get<T>();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
