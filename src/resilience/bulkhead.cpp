#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/detail/wait_line.hpp>

#include <algorithm>
#include <cassert>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::int64_t one = 2, locked_bit = 1;
constexpr std::size_t most_permits = 1'000'000'000;

constexpr std::int64_t permits(std::int64_t word) noexcept { return word >> 1; }
constexpr bool needs_lock(std::int64_t word) noexcept { return (word & locked_bit) != 0; }

std::size_t weight_of(const call& c) noexcept {
  return std::clamp<std::size_t>(c.info().weight, 1, most_permits + 1);  // one more than there can be
}

// The way of nearly all calls: nobody waits, and there are no partitions.

bool take(std::atomic<std::int64_t>& free, std::size_t weight) noexcept {
  const auto wanted = static_cast<std::int64_t>(weight);
  std::int64_t word = free.load(std::memory_order_relaxed);
  do {
    if (permits(word) < wanted || needs_lock(word)) return false;
    // Acquire pairs with the release of whoever gave the permit back: the task that ends happens before the next.
  } while (
      !free.compare_exchange_weak(word, word - wanted * one, std::memory_order_acquire, std::memory_order_relaxed));
  return true;
}

bool put_back(std::atomic<std::int64_t>& free, std::size_t weight) noexcept {
  const auto returned = static_cast<std::int64_t>(weight) * one;
  std::int64_t word = free.load(std::memory_order_relaxed);
  do {
    if (needs_lock(word)) return false;
  } while (!free.compare_exchange_weak(word, word + returned, std::memory_order_release, std::memory_order_relaxed));
  return true;
}

}  // namespace

/// A queued call. Lives in its coroutine's frame; everything in it belongs to the mutex.
struct bulkhead::waiter {
  /// Who ended the wait, if it was the bulkhead.
  enum class fate : std::uint8_t { open, granted, full, displaced, cleared, too_heavy };

  waiter(bulkhead& owner, const permit& asked, std::int32_t priority, bool patient) noexcept
      : owner_(owner), permit_(asked), priority_(priority), patient_(patient) {}
  waiter(const waiter&) = delete;
  waiter& operator=(const waiter&) = delete;
  /// Also when the frame is destroyed while it waits, or between the hand-over of a permit and its resumption.
  ~waiter() {
    const std::lock_guard lock(owner_.mutex_);
    if (linked_) owner_.leave_locked(*this);
    if (fate_ == fate::granted) owner_.give_back_locked(permit_);
  }
  /// False when its time or its cancellation came first.
  bool end(fate how) noexcept {
    const bool ended = parked_->wake(wake_reason::woken);
    if (ended) fate_ = how;
    return ended;
  }
  [[nodiscard]] bool goes_before(const waiter& other) const noexcept {
    return priority_ != other.priority_ ? priority_ > other.priority_ : rank_ < other.rank_;
  }

  bulkhead& owner_;
  permit permit_;
  waiter* previous_ = nullptr;
  waiter* next_ = nullptr;
  detail::parked_reference parked_;
  time_point since_{};
  std::int64_t rank_ = 0;  // the place among its equals in all queues
  std::int32_t priority_;
  fate fate_ = fate::open;
  bool linked_ = false, patient_;
};

/// A partition, or all that belong to none: those reserve nothing, and what they use is not counted here.
struct bulkhead::lane {
  [[nodiscard]] std::int64_t unused_reserve() const noexcept { return std::max<std::int64_t>(reserved - used, 0); }
  /// How many of the permits would come from those that all share.
  [[nodiscard]] std::int64_t shared_part(std::size_t weight) const noexcept {
    return std::max<std::int64_t>(static_cast<std::int64_t>(weight) - unused_reserve(), 0);
  }
  [[nodiscard]] bool is_capped(std::size_t weight) const noexcept {
    return used + static_cast<std::int64_t>(weight) > at_most;
  }
  void add_counts_to(bulkhead_stats& s) const noexcept {
    s.rejected += rejected.load(std::memory_order_relaxed);
    s.queue_timeouts += queue_timeouts.load(std::memory_order_relaxed);
    s.cleared += cleared.load(std::memory_order_relaxed);
    s.displaced += displaced.load(std::memory_order_relaxed);
  }

  std::string name;
  std::int64_t reserved = 0, at_most = std::int64_t{most_permits} + 1, used = 0;
  detail::wait_line<waiter> line;
  time_point occupied_since{};
  std::atomic<std::uint64_t> rejected{0}, queue_timeouts{0}, cleared{0}, displaced{0};
  std::unique_ptr<lane> next;
};

std::vector<std::string> validate(const bulkhead_options& options, const bulkhead_partitions& partitions) {
  std::vector<std::string> problems;
  if (options.max_concurrent < 1) problems.emplace_back("max_concurrent: must be at least 1");
  if (options.max_concurrent > most_permits) problems.emplace_back("max_concurrent: must be at most 1e9");
  if (options.max_wait <= duration::zero()) problems.emplace_back("max_wait: must be positive");
  if (options.target_delay < duration::zero() || options.target_delay >= options.max_wait) {
    problems.emplace_back("target_delay: must not be negative and must be less than max_wait; 0 turns it off");
  }
  if (options.interval <= duration::zero()) problems.emplace_back("interval: must be positive");
  if (options.order == queue_order::adaptive && options.target_delay == duration::zero()) {
    problems.emplace_back("order: adaptive needs a target_delay");
  }
  std::size_t reserved = 0;
  for (const auto& [name, limits] : partitions) {
    const std::string field = "partitions." + name;
    if (name.empty()) problems.emplace_back("partitions: a name must not be empty");
    if (limits.at_most < 1) problems.push_back(field + ".at_most: must be at least 1");
    if (limits.at_most < limits.reserved) problems.push_back(field + ".reserved: must not be more than at_most");
    reserved += std::min(limits.reserved, most_permits + 1);
  }
  if (reserved > options.max_concurrent) {
    problems.push_back("partitions: reserve " + std::to_string(reserved) + " permits together, but max_concurrent is " +
                       std::to_string(options.max_concurrent));
  }
  return problems;
}

bulkhead::bulkhead(std::string name, const bulkhead_options& options)
    : free_(static_cast<std::int64_t>(options.max_concurrent) * one),
      lanes_(std::make_unique<lane>()),
      name_(std::make_shared<const std::string>(std::move(name))),
      options_((detail::require_valid("bulkhead '" + *name_ + "'", validate(options)), options)),
      limit_(options.max_concurrent) {}

bulkhead::~bulkhead() { assert(queued_ == 0 && "calls still wait for a bulkhead that ends"); }

bulkhead& bulkhead::partition(std::string name, const partition_limits& limits) {
  bulkhead_partitions changed = partitions_;
  auto problems = changed.emplace(name, limits).second
                      ? validate(options_, changed)
                      : std::vector<std::string>{"partitions." + name + ": is there already"};
  detail::require_valid("bulkhead '" + *name_ + "'", problems);
  auto added = std::make_unique<lane>();
  added->name = std::move(name);
  added->reserved = static_cast<std::int64_t>(limits.reserved);
  added->at_most = static_cast<std::int64_t>(std::min(limits.at_most, most_permits + 1));
  const std::lock_guard lock(mutex_);
  reserved_ += limits.reserved;
  unused_reserve_ += added->reserved;
  added->next = std::move(lanes_->next);
  lanes_->next = std::move(added);
  partitions_ = std::move(changed);
  free_.fetch_or(locked_bit, std::memory_order_acq_rel);
  return *this;
}

// ---------------------------------------------------------------------------------------------------------- admission

bulkhead::lane& bulkhead::lane_of(std::string_view key) const noexcept {
  for (lane* l = lanes_->next.get(); l != nullptr; l = l->next.get()) {
    if (l->name == key) return *l;
  }
  return *lanes_;
}

/// What a call could have if nobody else were there.
std::size_t bulkhead::most_for(const lane& l) const noexcept {
  const std::size_t shared = limit() - std::min(limit(), reserved_);
  return std::min(static_cast<std::size_t>(l.at_most), static_cast<std::size_t>(l.reserved) + shared);
}

bool bulkhead::try_pass_in_partition(const call& c, permit& asked) noexcept {
  if (!is_partitioned()) return false;
  asked.from = &lane_of(c.info().key);
  const std::lock_guard lock(mutex_);
  if (!may_pass_locked(asked)) return false;
  take_locked(asked);
  return true;
}

admission bulkhead::admit(call& c, policy_slot& slot) noexcept {
  const std::size_t weight = weight_of(c);
  const bool passes = take(free_, weight);
  permit& asked = slot.emplace<permit>() = {lanes_.get(), weight};
  if (passes) [[likely]]
    return admission::go;
  return admit_slowly(c, asked);
}

admission bulkhead::admit_slowly(call& c, permit& asked) noexcept {
  if (try_pass_in_partition(c, asked)) return admission::go;
  const bool too_heavy = asked.weight > most_for(*asked.from);
  if (options_.max_queue > 0 && !too_heavy) return admission::wait;
  asked.from->rejected.fetch_add(1, std::memory_order_relaxed);
  return c.refuse(too_heavy ? errc::weight_too_large : errc::bulkhead_full, name_);
}

admission bulkhead::admit_item(call& c, policy_slot& slot) noexcept {
  permit& asked = slot.emplace<permit>() = {lanes_.get(), weight_of(c)};
  return take(free_, asked.weight) || try_pass_in_partition(c, asked) ? admission::go : admission::wait;
}

awaitable<admission> bulkhead::wait(call& c, policy_slot& slot) { return queue(c, slot.get<permit>(), false); }

/// @param patient  waits as long as it takes, and is not one of `max_queue`.
awaitable<admission> bulkhead::queue(call& c, permit asked, bool patient) {
  using fate = waiter::fate;
  lane& own = *asked.from;
  waiter mine(*this, asked, options_.order == queue_order::priority ? c.info().priority : 0, patient);
  const time_point now = c.now();
  duration patience = patient ? duration::max() : options_.max_wait;
  bool newest_first = options_.order == queue_order::lifo;
  if (options_.target_delay > duration::zero() && !patient) {
    const std::lock_guard lock(mutex_);
    if (!own.line.empty() && now - own.occupied_since >= options_.interval) {
      patience = options_.target_delay;
      drop_older_locked(own, now - patience);
      newest_first = newest_first || options_.order == queue_order::adaptive;
    }
  }
  const time_point until = patience == duration::max() ? never : saturating_add(now, patience);
  const auto enlist = [&](const detail::parked_reference& self) {
    const std::lock_guard lock(mutex_);
    mine.parked_ = self;
    mine.since_ = now;
    if (asked.weight > most_for(*asked.from)) {
      mine.end(fate::too_heavy);
      return;
    }
    enqueue_locked(mine, newest_first);
    hand_out_locked();  // a permit may have come back since admit
    if (!patient && mine.linked_) make_room_locked(mine);
  };
  const wake_reason reason = co_await park(until, enlist);

  const std::lock_guard lock(mutex_);
  if (mine.linked_) leave_locked(mine);
  switch (std::exchange(mine.fate_, fate::open)) {
    case fate::granted:
      co_return admission::go;
    case fate::full:
      asked.from->rejected.fetch_add(1, std::memory_order_relaxed);
      co_return c.refuse(errc::bulkhead_full, name_);
    case fate::displaced:
      asked.from->displaced.fetch_add(1, std::memory_order_relaxed);
      co_return c.refuse(errc::bulkhead_full, name_);
    case fate::cleared:
      co_return c.refuse(errc::queue_cleared, name_);
    case fate::too_heavy:
      asked.from->rejected.fetch_add(1, std::memory_order_relaxed);
      co_return c.refuse(errc::weight_too_large, name_);
    case fate::open:
      break;
  }
  if (reason == wake_reason::cancelled) co_return c.refuse(failure::cancelled());
  asked.from->queue_timeouts.fetch_add(1, std::memory_order_relaxed);
  co_return c.refuse(errc::queue_timed_out, name_);
}

verdict bulkhead::settle(call&, policy_slot& slot, const outcome_view&) noexcept {
  give_back(slot.get<permit>());
  return verdict::deliver;
}

void bulkhead::abandon(policy_slot& slot) noexcept { give_back(slot.get<permit>()); }

void bulkhead::give_back(const permit& held) noexcept {
  if (!put_back(free_, held.weight)) [[unlikely]]
    give_back_slowly(held);
}

void bulkhead::give_back_slowly(const permit& held) noexcept {
  const std::lock_guard lock(mutex_);
  give_back_locked(held);
}

// ---------------------------------------------------------------------------------------------------- under the mutex

void bulkhead::take_locked(const permit& taken) noexcept {
  const auto weight = static_cast<std::int64_t>(taken.weight);
  if (lane& l = *taken.from; &l != lanes_.get()) {
    unused_reserve_ -= l.unused_reserve();
    l.used += weight;
    unused_reserve_ += l.unused_reserve();
  }
  free_.fetch_sub(weight * one, std::memory_order_acq_rel);
}

void bulkhead::put_back_locked(const permit& held) noexcept {
  const auto weight = static_cast<std::int64_t>(held.weight);
  if (lane& l = *held.from; &l != lanes_.get()) {
    unused_reserve_ -= l.unused_reserve();
    l.used -= weight;
    unused_reserve_ += l.unused_reserve();
  }
  free_.fetch_add(weight * one, std::memory_order_acq_rel);
}

void bulkhead::give_back_locked(const permit& held) noexcept {
  put_back_locked(held);
  hand_out_locked();
}

std::int64_t bulkhead::shared_and_free_locked() const noexcept {
  return permits(free_.load(std::memory_order_relaxed)) - unused_reserve_;
}

/// Whether a newcomer passes nobody by who waits for the same permits.
bool bulkhead::may_pass_locked(const permit& asked) const noexcept {
  const lane& own = *asked.from;
  if (!own.line.empty() || own.is_capped(asked.weight)) return false;
  const std::int64_t shared = own.shared_part(asked.weight);
  if (shared == 0) return true;
  for (const lane* l = lanes_.get(); l != nullptr; l = l->next.get()) {
    const waiter* w = l->line.first();
    if (w != nullptr && !l->is_capped(w->permit_.weight)) return false;
  }
  return shared <= shared_and_free_locked();
}

/// Who can have its permits now: whoever its partition's reserve is enough for, or the first of those who need shared
/// ones. That one is not passed by, so the shared permits gather until it has enough.
bulkhead::waiter* bulkhead::next_locked() const noexcept {
  waiter* sharing = nullptr;
  for (const lane* l = lanes_.get(); l != nullptr; l = l->next.get()) {
    waiter* w = l->line.first();
    if (w == nullptr || l->is_capped(w->permit_.weight)) continue;
    if (l->shared_part(w->permit_.weight) == 0) return w;
    if (sharing == nullptr || w->goes_before(*sharing)) sharing = w;
  }
  if (sharing == nullptr) return nullptr;
  return sharing->permit_.from->shared_part(sharing->permit_.weight) <= shared_and_free_locked() ? sharing : nullptr;
}

/// Lets waiting calls in while there are permits. A call that was resumed otherwise in the meantime is passed over.
void bulkhead::hand_out_locked() noexcept {
  while (waiter* w = next_locked()) {
    take_locked(w->permit_);  // before unlinking, which may clear the bit that keeps newcomers from these very permits
    unlink_locked(*w);
    if (!w->end(waiter::fate::granted)) put_back_locked(w->permit_);
  }
}

/// Errors: std::bad_alloc, as park itself may throw.
void bulkhead::enqueue_locked(waiter& w, bool newest_first) {
  lane& l = *w.permit_.from;
  l.line.join(w, newest_first);
  w.rank_ = newest_first ? --oldest_rank_ : ++newest_rank_;
  if (l.line.size() == 1) l.occupied_since = w.since_;
  w.linked_ = true;
  ++queued_;
  free_.fetch_or(locked_bit, std::memory_order_acq_rel);
}

/// Where the queue has one too many, one goes: by priority the last to come of the least important, otherwise the
/// newcomer.
void bulkhead::make_room_locked(waiter& newcomer) noexcept {
  const auto& line = newcomer.permit_.from->line;
  if (line.size() <= options_.max_queue) return;
  waiter* leaver = &newcomer;
  if (options_.order == queue_order::priority) {
    for (leaver = line.last(); leaver->patient_;) leaver = leaver->previous_;  // ends at the newcomer
  }
  leave_locked(*leaver);
  leaver->end(leaver == &newcomer ? waiter::fate::full : waiter::fate::displaced);
}

/// Ends the waits that began before `limit`: whoever waited so long is the least likely to be still of use to anyone.
void bulkhead::drop_older_locked(lane& l, time_point limit) noexcept {
  for (waiter* w = l.line.first(); w != nullptr;) {
    waiter& each = *std::exchange(w, w->next_);
    if (each.patient_ || each.since_ >= limit) continue;
    unlink_locked(each);
    each.parked_->wake(wake_reason::timed_out);
  }
  hand_out_locked();
}

/// After the limit has shrunk.
void bulkhead::refuse_heavy_locked() noexcept {
  for (lane* l = lanes_.get(); l != nullptr; l = l->next.get()) {
    const std::size_t most = most_for(*l);
    for (waiter* w = l->line.first(); w != nullptr;) {
      waiter& each = *std::exchange(w, w->next_);
      if (each.permit_.weight <= most) continue;
      unlink_locked(each);
      each.end(waiter::fate::too_heavy);
    }
  }
}

void bulkhead::unlink_locked(waiter& w) noexcept {
  w.permit_.from->line.leave(w);
  w.linked_ = false;
  if (--queued_ == 0 && !is_partitioned()) free_.fetch_and(~locked_bit, std::memory_order_acq_rel);
}

/// Without its permits. Whom it kept from its own may go now.
void bulkhead::leave_locked(waiter& w) noexcept {
  unlink_locked(w);
  hand_out_locked();
}

// -------------------------------------------------------------------------------------------------------- from outside

std::size_t bulkhead::clear_queue() {
  const std::lock_guard lock(mutex_);
  std::size_t total = 0;
  for (lane* l = lanes_.get(); l != nullptr; l = l->next.get()) {
    std::size_t count = 0;
    while (waiter* w = l->line.first()) {
      unlink_locked(*w);
      if (w->end(waiter::fate::cleared)) ++count;
    }
    l->cleared.fetch_add(count, std::memory_order_relaxed);
    total += count;
  }
  return total;
}

void bulkhead::resize(std::size_t max_concurrent) {
  bulkhead_options changed = options_;
  changed.max_concurrent = max_concurrent;
  detail::require_valid("bulkhead '" + *name_ + "'", validate(changed, partitions_));
  const std::lock_guard lock(mutex_);
  const auto more = static_cast<std::int64_t>(max_concurrent) - static_cast<std::int64_t>(limit_.load());
  limit_.store(max_concurrent, std::memory_order_relaxed);
  free_.fetch_add(more * one, std::memory_order_acq_rel);
  if (more < 0) refuse_heavy_locked();
  hand_out_locked();
}

std::size_t bulkhead::limit() const noexcept { return limit_.load(std::memory_order_relaxed); }

std::size_t bulkhead::active_count() const noexcept {
  const auto active = static_cast<std::int64_t>(limit()) - permits(free_.load(std::memory_order_relaxed));
  return static_cast<std::size_t>(std::max<std::int64_t>(active, 0));
}

std::size_t bulkhead::pending_count() const noexcept {
  const std::lock_guard lock(mutex_);
  return queued_;
}

bulkhead_stats bulkhead::stats() const noexcept {
  bulkhead_stats s;
  for (const lane* l = lanes_.get(); l != nullptr; l = l->next.get()) {
    l->add_counts_to(s);
  }
  s.limit = limit();
  s.active = active_count();
  s.queued = pending_count();
  return s;
}

bulkhead_stats bulkhead::stats(std::string_view key) const noexcept {
  const lane& asked = lane_of(key);
  const std::lock_guard lock(mutex_);
  std::int64_t active = asked.used;
  if (&asked == lanes_.get()) {
    active = static_cast<std::int64_t>(active_count());
    for (const lane* l = asked.next.get(); l != nullptr; l = l->next.get()) active -= l->used;
  }
  bulkhead_stats s;
  s.limit = most_for(asked);
  s.active = static_cast<std::size_t>(active);
  s.queued = asked.line.size();
  asked.add_counts_to(s);
  return s;
}

bool bulkhead::is_idle(time_point) const noexcept { return active_count() == 0 && limit() == options_.max_concurrent; }

std::string bulkhead::describe() const {
  std::string text = *name_ + ": bulkhead, " + std::to_string(limit()) + " at once";
  for (const auto& [key, limits] : partitions_) {
    text += ", " + key + " " + std::to_string(limits.reserved) + " reserved";
    if (limits.at_most != unlimited) text += " and " + std::to_string(limits.at_most) + " at most";
  }
  if (options_.max_queue == 0) return text + ", no queue";
  text += ", " + std::to_string(options_.max_queue) + " waiting";
  if (options_.order == queue_order::lifo) text += ", newest first";
  if (options_.order == queue_order::priority) text += ", the most important first";
  if (options_.order == queue_order::adaptive) text += ", newest first under overload";
  if (options_.target_delay > duration::zero()) text += ", for " + to_string(options_.target_delay) + " under overload";
  if (options_.max_wait != duration::max()) text += ", for " + to_string(options_.max_wait) + " at most";
  return text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
