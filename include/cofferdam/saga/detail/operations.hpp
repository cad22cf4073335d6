// What a body awaits, as the engine sees it: the typed parts are in scope.hpp and chain.hpp, what they do in src/saga.
#pragma once

#include <cofferdam/saga/step.hpp>
#include <cofferdam/saga/task.hpp>

#include <nlohmann/json.hpp>

#include <coroutine>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI::saga {

class scope;

namespace detail {

/// A step that began, and how to undo it: from the journal, or from memory in a saga that has none.
class past_step {
 public:
  past_step(std::string at, const step_settings& s, undo_kind wants, bool has_result)
      : key(std::move(at)), settings(s), undo_wants(wants), is_known(has_result) {}
  past_step(const past_step&) = delete;
  past_step& operator=(const past_step&) = delete;
  virtual ~past_step() = default;
  virtual awaitable<void> undo(step_context& context) = 0;
  /// The action again, for its result; then it is known.
  virtual awaitable<void> act(step_context& context) = 0;

  std::string key;
  step_settings settings;
  undo_kind undo_wants;
  bool is_known;
};

/// One step that a body awaits.
class step_work : public operation {
 public:
  step_work(instance& saga, fiber& f, std::string_view name, step_kind kind, undo_kind wants, bool is_transactional,
            const step_settings& settings, std::string key)
      : operation(f),
        saga_(&saga),
        name_(name),
        key_(std::move(key)),
        settings_(settings),
        kind_(kind),
        undo_wants_(wants),
        is_transactional_(is_transactional) {}

  /// True when the journal knows the outcome.
  bool await_ready() override;
  awaitable<bool> perform() override;

  /// Of a step without arguments (a link of a chain): null.
  [[nodiscard]] virtual nlohmann::json arguments() const = 0;
  /// One attempt, which keeps the result.
  virtual awaitable<void> attempt(step_context& context, batch* b) = 0;
  [[nodiscard]] virtual nlohmann::json result() const = 0;
  virtual void set_result(const nlohmann::json& stored) = 0;
  [[nodiscard]] virtual std::unique_ptr<past_step> remember() = 0;

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  [[nodiscard]] const step_settings& settings() const noexcept { return settings_; }
  [[nodiscard]] step_kind kind() const noexcept { return kind_; }
  [[nodiscard]] undo_kind undo_wants() const noexcept { return undo_wants_; }
  [[nodiscard]] bool is_transactional() const noexcept { return is_transactional_; }
  using operation::by;
  void fail(step_failed why) { failed_.emplace(std::move(why)); }

 protected:
  void raise_failure() const {
    if (failed_) throw step_failed(*failed_);
  }

 private:
  instance* saga_;
  std::string_view name_;
  std::string key_;
  step_settings settings_;
  step_kind kind_;
  undo_kind undo_wants_;
  bool is_transactional_;
  std::optional<step_failed> failed_;
};

template <class Step> class past_bound_step final : public past_step {
 public:
  using box = cofferdam::detail::value_box<typename Step::result>;
  past_bound_step(std::string at, const step_settings& s, typename Step::arguments args, box value, bool has_result)
      : past_step(std::move(at), s, Step::undo_wants, has_result),
        arguments_(std::move(args)),
        value_(std::move(value)) {}

  awaitable<void> undo(step_context& context) override {
    if constexpr (std::is_void_v<typename Step::result>) {
      return Step::template undo<std::monostate>(context, nullptr, arguments_);
    } else {
      return Step::template undo<typename Step::result>(context, is_known ? &*value_.value : nullptr, arguments_);
    }
  }
  awaitable<void> act(step_context& context) override {
    if constexpr (std::is_void_v<typename Step::result>) {
      co_await Step::act(context, nullptr, arguments_);
    } else if constexpr (!Step::is_transactional) {
      value_.value.emplace(co_await Step::act(context, nullptr, arguments_));
    }
    is_known = true;
  }

 private:
  typename Step::arguments arguments_;
  box value_;
};

/// `co_await s.run(step, arguments...)`.
template <class Step> class [[nodiscard]] step_operation final : public step_work {
 public:
  using result_type = typename Step::result;
  step_operation(instance& saga, fiber& f, const Step& step, std::string key, typename Step::arguments args)
      : step_work(saga, f, Step::name, Step::kind, Step::undo_wants, Step::is_transactional, step.settings(),
                  std::move(key)),
        arguments_(std::move(args)) {}

  result_type await_resume() {
    raise_failure();
    if constexpr (!std::is_void_v<result_type>) return *std::move(value_.value);
  }

  [[nodiscard]] nlohmann::json arguments() const override { return nlohmann::json(arguments_); }
  awaitable<void> attempt(step_context& context, batch* b) override {
    auto args = arguments_;  // an action may take them by value and move them away, and there may be another attempt
    if constexpr (std::is_void_v<result_type>) {
      co_await Step::act(context, b, args);
    } else {
      value_.value.emplace(co_await Step::act(context, b, args));
    }
    is_known_ = true;
  }
  [[nodiscard]] nlohmann::json result() const override {
    if constexpr (std::is_void_v<result_type>) {
      return {};
    } else {
      return nlohmann::json(*value_.value);
    }
  }
  void set_result(const nlohmann::json& stored) override {
    if constexpr (!std::is_void_v<result_type>) value_.value.emplace(stored.get<result_type>());
  }
  [[nodiscard]] std::unique_ptr<past_step> remember() override {
    if constexpr (Step::undo_wants == undo_kind::none) {
      return nullptr;
    } else {
      return std::make_unique<past_bound_step<Step>>(key(), settings(), std::move(arguments_), value_, is_known_);
    }
  }

 private:
  typename Step::arguments arguments_;
  cofferdam::detail::value_box<result_type> value_;
  bool is_known_ = false;
};

/// A durable wait for a time, or for a signal until a time.
class wait_operation : public operation {
 public:
  wait_operation(instance& saga, fiber& f, std::string key, std::string signal, duration limit)
      : operation(f), saga_(&saga), key_(std::move(key)), signal_(std::move(signal)), limit_(limit) {}

  bool await_ready() override;
  awaitable<bool> perform() override;

  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  /// Empty: waits for the time only.
  [[nodiscard]] const std::string& signal() const noexcept { return signal_; }
  [[nodiscard]] duration limit() const noexcept { return limit_; }
  using operation::by;
  void stop() { failed_.emplace(key_, step_failed::reason::stopped, "", ""); }
  void settle(std::optional<nlohmann::json> message) { message_ = std::move(message); }

 protected:
  [[nodiscard]] const std::optional<nlohmann::json>& message() const {
    if (failed_) throw step_failed(*failed_);
    return message_;
  }
  [[nodiscard]] instance& saga() const noexcept { return *saga_; }

 private:
  instance* saga_;
  std::string key_, signal_;
  duration limit_;
  std::optional<nlohmann::json> message_;
  std::optional<step_failed> failed_;
};

class [[nodiscard]] sleep_operation final : public wait_operation {
 public:
  using wait_operation::wait_operation;
  void await_resume() const { (void)message(); }
};

template <class T> class [[nodiscard]] signal_operation final : public wait_operation {
 public:
  using wait_operation::wait_operation;
  std::optional<T> await_resume() const {
    const auto& found = message();
    return found ? std::optional<T>(found->template get<T>()) : std::nullopt;
  }
};

/// A mark on something that other sagas wait for.
class [[nodiscard]] lock_operation final : public wait_operation {
 public:
  lock_operation(instance& saga, fiber& f, std::string key, std::string resource, duration limit)
      : wait_operation(saga, f, std::move(key), {}, limit), resource_(std::move(resource)) {}
  bool await_ready() override;
  awaitable<bool> perform() override;
  [[nodiscard]] const std::string& resource() const noexcept { return resource_; }
  void fail(step_failed why) { failed_.emplace(std::move(why)); }
  void await_resume() const {
    if (failed_) throw step_failed(*failed_);
    (void)message();
  }

 private:
  std::string resource_;
  std::optional<step_failed> failed_;
};

/// A question whose answer is written down once.
class [[nodiscard]] mark_operation final : public operation {
 public:
  mark_operation(instance& saga, fiber& f, std::string key) : operation(f), saga_(&saga), key_(std::move(key)) {}
  bool await_ready() override;
  awaitable<bool> perform() override;
  [[nodiscard]] bool await_resume() const noexcept { return answer_; }

 private:
  instance* saga_;
  std::string key_;
  bool answer_ = false;
};

/// A part of a body with a path of its own.
class branch_base {
 public:
  branch_base(instance& saga, std::string path) : saga_(&saga), path_(std::move(path)) {}
  branch_base(const branch_base&) = delete;
  branch_base& operator=(const branch_base&) = delete;
  virtual ~branch_base() = default;

  /// Makes its coroutine, which has not begun.
  virtual std::coroutine_handle<> start() = 0;
  /// How it ended; null: well.
  [[nodiscard]] virtual std::exception_ptr take() = 0;

  [[nodiscard]] fiber& control() noexcept { return fiber_; }
  [[nodiscard]] instance& saga() const noexcept { return *saga_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// What the keys in it begin with.
  [[nodiscard]] std::string prefix() const { return path_.empty() ? path_ : path_ + '/'; }

 private:
  instance* saga_;
  std::string path_;
  fiber fiber_;
};

/// All branches side by side; the first failure in their order is thrown when all have ended.
class all_work : public operation {
 public:
  all_work(instance& saga, fiber& f) noexcept : operation(f), saga_(&saga) {}
  bool await_ready() override { return false; }
  awaitable<bool> perform() override;
  void undo_in_parallel(bool on) noexcept { is_undone_in_parallel_ = on; }

 protected:
  [[nodiscard]] virtual std::span<branch_base* const> branches() noexcept = 0;
  void raise_failure() const {
    if (failed_) std::rethrow_exception(failed_);
  }

 private:
  instance* saga_;
  std::exception_ptr failed_;
  bool is_undone_in_parallel_ = false;
};

/// All branches side by side until one succeeds; what the others did is undone.
class race_work : public operation {
 public:
  race_work(instance& saga, fiber& f, std::string key) noexcept : operation(f), saga_(&saga), key_(std::move(key)) {}
  bool await_ready() override { return false; }
  awaitable<bool> perform() override;

  [[nodiscard]] virtual std::span<branch_base* const> branches() noexcept = 0;
  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  using operation::by;
  void settle(std::size_t winner) noexcept { winner_ = winner; }
  void fail(const std::string& why) { failed_.emplace(why); }

 protected:
  [[nodiscard]] std::size_t winner() const {
    if (failed_) throw aborted(*failed_);
    return winner_;
  }

 private:
  instance* saga_;
  std::string key_;
  std::size_t winner_ = 0;
  std::optional<aborted> failed_;
};

/// A branch that is undone alone when it fails.
class nested_work : public operation {
 public:
  nested_work(instance& saga, fiber& f) noexcept : operation(f), saga_(&saga) {}
  bool await_ready() override;
  awaitable<bool> perform() override;

 protected:
  [[nodiscard]] virtual branch_base& branch() noexcept = 0;
  void raise_failure() const {
    if (failed_) throw aborted(*failed_);
  }

 private:
  instance* saga_;
  std::optional<aborted> failed_;
};

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI::saga
