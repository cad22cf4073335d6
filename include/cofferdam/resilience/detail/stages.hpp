// The policies of a pipeline as the engine sees them: a range [begin, end) that it walks down and up. The compile-time
// list unrolls into direct calls, the run-time list loops over virtual ones; both end at the first scope (a time limit,
// a hedge), below which child coroutines walk on.
#pragma once

#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/policy.hpp>

#include <array>
#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// A policy that runs everything below it in child coroutines: a `timeout_scope` or a `hedge_scope`.
class scope {
 public:
  [[nodiscard]] bool hedges() const noexcept { return hedges_; }

 protected:
  explicit scope(bool hedges) noexcept : hedges_(hedges) {}
  scope(const scope&) = default;
  scope& operator=(const scope&) = default;
  ~scope() = default;

 private:
  bool hedges_;
};

/// The time limit a policy puts on everything below it, or what it marks it with.
class timeout_scope : public scope {
 public:
  /// Anything not positive, or `duration::max()`: no limit for this call.
  [[nodiscard]] virtual duration limit(call& c) const = 0;
  [[nodiscard]] virtual on_timeout mode() const noexcept = 0;
  [[nodiscard]] virtual const shared_name& name() const noexcept = 0;
  /// What everything below is within while it runs; nothing for a mere time limit.
  [[nodiscard]] virtual detail::passage enter(const net::any_io_executor&) const { return {}; }

 protected:
  timeout_scope() noexcept : scope(false) {}
  ~timeout_scope() = default;
};

/// What a hedging policy decides for one call: when a further attempt starts, and when the race is over.
class hedge_scope : public scope {
 public:
  enum class judgement : std::uint8_t {
    wins,
    fails,       ///< the next attempt starts at once
    is_refused,  ///< fails, and another attempt would, too
    ends,        ///< nobody else is waited for
  };

  [[nodiscard]] virtual std::uint32_t max_attempts() const noexcept = 0;
  /// Whether the call goes on while losers still end.
  [[nodiscard]] virtual bool leaves_losers() const noexcept = 0;
  /// How long to wait for an answer before attempt `number` starts; zero: not at all, `duration::max()`: for ever.
  [[nodiscard]] virtual duration delay_before(std::uint32_t number, time_point now) noexcept = 0;
  /// Asked before each attempt but the first.
  [[nodiscard]] virtual bool may_start(const timer_service& timers) noexcept = 0;
  [[nodiscard]] virtual judgement judge(const outcome_view& outcome) noexcept = 0;
  /// The race that began at `began` is decided for attempt `number`.
  virtual void decided(std::uint32_t number, judgement why, time_point began, const timer_service& timers) noexcept = 0;

 protected:
  hedge_scope() noexcept : scope(true) {}
  ~hedge_scope() = default;
};

template <class... Holders> class static_pipeline;

namespace detail {

void append_line(std::string& text, const std::string& line);

// ------------------------------------------------------------------------------------------- composed at compile time

template <class P> class reference_holder {
 public:
  using policy_type = P;
  explicit reference_holder(P& p) noexcept : policy_(&p) {}
  [[nodiscard]] P& get() const noexcept { return *policy_; }

 private:
  P* policy_;
};
template <class P> class value_holder {
 public:
  using policy_type = P;
  explicit value_holder(P&& p) : policy_(std::move(p)) {}
  [[nodiscard]] P& get() noexcept { return policy_; }
  [[nodiscard]] const P& get() const noexcept { return policy_; }

 private:
  P policy_;
};
template <class P> class shared_holder {
 public:
  using policy_type = P;
  explicit shared_holder(std::shared_ptr<P> p) noexcept : policy_(std::move(p)) {}
  [[nodiscard]] P& get() const noexcept { return *policy_; }

 private:
  std::shared_ptr<P> policy_;
};

template <class T> struct shared_policy : std::false_type {};
template <std::derived_from<policy> P> struct shared_policy<std::shared_ptr<P>> : std::true_type {};
template <class T> struct is_static_pipeline : std::false_type {};
template <class... Holders> struct is_static_pipeline<static_pipeline<Holders...>> : std::true_type {};

template <class T>
concept pipeline_part =
    std::derived_from<std::remove_cvref_t<T>, policy> || shared_policy<std::remove_cvref_t<T>>::value ||
    is_static_pipeline<std::remove_cvref_t<T>>::value;

template <class Part> auto to_holders(Part&& part) {
  using type = std::remove_cvref_t<Part>;
  if constexpr (is_static_pipeline<type>::value) {
    if constexpr (std::is_lvalue_reference_v<Part>) {
      return part.policies();
    } else {
      return std::move(part).release();
    }
  } else if constexpr (shared_policy<type>::value) {
    return std::make_tuple(shared_holder(std::shared_ptr(std::forward<Part>(part))));
  } else if constexpr (std::is_lvalue_reference_v<Part>) {
    return std::make_tuple(reference_holder<std::remove_reference_t<Part>>(part));
  } else {
    return std::make_tuple(value_holder<type>(std::move(part)));
  }
}
template <class... Holders> auto make_static(std::tuple<Holders...> holders) {
  return static_pipeline<Holders...>(std::move(holders));
}

/// Policies say `static constexpr bool may_repeat = true` when they can start the task again.
template <class P> constexpr bool policy_may_repeat() {
  if constexpr (requires { P::may_repeat; }) {
    return P::may_repeat;
  } else {
    return false;
  }
}
template <class P> constexpr bool policy_is_scope = std::derived_from<P, scope>;
template <class P> constexpr bool policy_hedges = std::derived_from<P, hedge_scope>;

/// A compile-time list seen through `Access::get<I>()`.
template <std::size_t Begin, class Access> class unrolled_stages {
 public:
  explicit unrolled_stages(Access access) noexcept : access_(access) {}

  static constexpr std::size_t size = Access::size;
  static constexpr std::size_t scope_index = [] {
    std::size_t index = Begin;
    while (index < size && !Access::is_scope[index]) ++index;
    return index;
  }();
  static constexpr bool has_scope = scope_index < size;
  static constexpr bool may_hedge = has_scope && Access::hedges[has_scope ? scope_index : 0];
  static constexpr bool may_limit_time = has_scope && !may_hedge;
  static constexpr std::size_t end = has_scope ? scope_index + 1 : size;
  static constexpr bool may_repeat = [] {
    for (std::size_t index = Begin; index < size; ++index) {
      if (Access::may_repeat[index]) return true;
    }
    return false;
  }();

  class slots {
   public:
    explicit slots(const unrolled_stages&) noexcept {}
    policy_slot& operator[](std::size_t index) noexcept { return items_[index]; }

   private:
    policy_slot items_[end > Begin ? end - Begin : 1];
  };

  [[nodiscard]] static constexpr std::size_t begin() noexcept { return Begin; }
  [[nodiscard]] cofferdam::scope* scope() const noexcept {
    if constexpr (has_scope) {
      return &access_.template get<scope_index>();
    } else {
      return nullptr;
    }
  }
  [[nodiscard]] auto below() const noexcept { return unrolled_stages<end, Access>(access_); }

  /// Admits from `walk.top` on until a policy does not say go.
  template <class Walk> admission descend(Walk& walk, call& c) const noexcept {
    admission said = admission::go;
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (void)(admit_one<Begin + I>(walk, c, said) && ...);
    }(std::make_index_sequence<end - Begin>());
    return said;
  }
  /// Settles from `walk.top` down to the outermost, until a policy does not say deliver.
  template <class Walk> verdict ascend(Walk& walk, call& c, const outcome_view& outcome) const noexcept {
    verdict said = verdict::deliver;
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (void)(settle_one<end - 1 - I>(walk, c, outcome, said) && ...);
    }(std::make_index_sequence<end - Begin>());
    return said;
  }
  void abandon(std::size_t index, policy_slot& slot) const noexcept {
    visit(index, [&](auto& p) { p.abandon(slot); });
  }
  [[nodiscard]] awaitable<admission> wait(std::size_t index, call& c, policy_slot& slot) const {
    std::optional<awaitable<admission>> answer;
    visit(index, [&](auto& p) { answer.emplace(p.wait(c, slot)); });
    return *std::move(answer);
  }
  [[nodiscard]] const void* substitution(std::size_t index, const std::type_info& type) const noexcept {
    const void* found = nullptr;
    visit(index, [&](auto& p) { found = p.substitution(type); });
    return found;
  }
  [[nodiscard]] std::string describe(std::size_t index) const {
    std::string text;
    visit(index, [&](auto& p) { text = p.describe(); });
    return text;
  }

 private:
  template <std::size_t I, class Walk> bool admit_one(Walk& walk, call& c, admission& said) const noexcept {
    if (I < walk.top) return true;
    said = access_.template get<I>().admit(c, walk.slot(I));
    if (said != admission::go) return false;
    walk.top = I + 1;
    return true;
  }
  template <std::size_t I, class Walk>
  bool settle_one(Walk& walk, call& c, const outcome_view& outcome, verdict& said) const noexcept {
    if (I >= walk.top) return true;
    walk.top = I;
    said = access_.template get<I>().settle(c, walk.slot(I), outcome);
    return said == verdict::deliver;
  }
  template <class Function> void visit(std::size_t index, Function function) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (void)((index == I ? (function(access_.template get<I>()), true) : false) || ...);
    }(std::make_index_sequence<size>());
  }

  Access access_;
};

template <class P> struct single_access {
  static constexpr std::size_t size = 1;
  static constexpr std::array<bool, size> is_scope = {policy_is_scope<P>};
  static constexpr std::array<bool, size> hedges = {policy_hedges<P>};
  static constexpr std::array<bool, size> may_repeat = {policy_may_repeat<P>()};
  P* object;
  template <std::size_t> [[nodiscard]] P& get() const noexcept { return *object; }
};
template <class P> auto single_stage(P* object) noexcept { return unrolled_stages<0, single_access<P>>({object}); }

template <class... Holders> struct tuple_access {
  static constexpr std::size_t size = sizeof...(Holders);
  static constexpr std::array<bool, size> is_scope = {policy_is_scope<typename Holders::policy_type>...};
  static constexpr std::array<bool, size> hedges = {policy_hedges<typename Holders::policy_type>...};
  static constexpr std::array<bool, size> may_repeat = {policy_may_repeat<typename Holders::policy_type>()...};
  std::tuple<Holders...>* policies;
  template <std::size_t I> [[nodiscard]] auto& get() const noexcept { return std::get<I>(*policies).get(); }
};
template <std::size_t Begin, class... Holders> using static_stages = unrolled_stages<Begin, tuple_access<Holders...>>;

// ------------------------------------------------------------------------------------------------- made at run time

/// Which policies, and what a walk asks of each: found out once, not by every call.
class policy_list {
 public:
  struct member {
    policy* object;
    cofferdam::scope* scope;  // null for most
    std::size_t end;          // of the stretch that begins here: behind the next scope
  };
  explicit policy_list(std::vector<std::shared_ptr<policy>> policies);

  [[nodiscard]] const std::vector<std::shared_ptr<policy>>& policies() const noexcept { return policies_; }
  [[nodiscard]] const member& operator[](std::size_t index) const noexcept { return members_[index]; }
  [[nodiscard]] std::size_t size() const noexcept { return members_.size(); }

 private:
  std::vector<std::shared_ptr<policy>> policies_;
  std::vector<member> members_;
};

class dynamic_stages {
 public:
  static constexpr bool may_limit_time = true, may_hedge = true, may_repeat = true;  // nobody knows at compile time

  dynamic_stages(std::shared_ptr<const policy_list> list, std::size_t begin) noexcept
      : list_(std::move(list)), begin_(begin), end_(begin < list_->size() ? (*list_)[begin].end : begin) {}

  class slots {
   public:
    explicit slots(const dynamic_stages& stages) {
      if (stages.end_ - stages.begin_ > few) many_.resize(stages.end_ - stages.begin_);
    }
    policy_slot& operator[](std::size_t index) noexcept { return many_.empty() ? items_[index] : many_[index]; }

   private:
    static constexpr std::size_t few = 8;
    policy_slot items_[few];
    std::vector<policy_slot> many_;
  };

  [[nodiscard]] std::size_t begin() const noexcept { return begin_; }
  [[nodiscard]] cofferdam::scope* scope() const noexcept { return end_ == begin_ ? nullptr : (*list_)[end_ - 1].scope; }
  [[nodiscard]] dynamic_stages below() const noexcept { return {list_, end_}; }

  template <class Walk> admission descend(Walk& walk, call& c) const noexcept {
    for (; walk.top < end_; ++walk.top) {
      const admission said = at(walk.top).admit(c, walk.slot(walk.top));
      if (said != admission::go) return said;
    }
    return admission::go;
  }
  template <class Walk> verdict ascend(Walk& walk, call& c, const outcome_view& outcome) const noexcept {
    while (walk.top > begin_) {
      --walk.top;
      const verdict said = at(walk.top).settle(c, walk.slot(walk.top), outcome);
      if (said != verdict::deliver) return said;
    }
    return verdict::deliver;
  }
  void abandon(std::size_t index, policy_slot& slot) const noexcept { at(index).abandon(slot); }
  [[nodiscard]] awaitable<admission> wait(std::size_t index, call& c, policy_slot& slot) const {
    return at(index).wait(c, slot);
  }
  [[nodiscard]] const void* substitution(std::size_t index, const std::type_info& type) const noexcept {
    return at(index).substitution(type);
  }
  [[nodiscard]] std::string describe(std::size_t index) const { return at(index).describe(); }

 private:
  [[nodiscard]] policy& at(std::size_t index) const noexcept { return *(*list_)[index].object; }

  std::shared_ptr<const policy_list> list_;
  std::size_t begin_, end_;
};

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
