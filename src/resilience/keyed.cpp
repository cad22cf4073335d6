#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/keyed.hpp>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <list>
#include <mutex>
#include <unordered_map>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const keyed_options& options) {
  std::vector<std::string> problems;
  if (options.max_keys < 1) problems.emplace_back("max_keys: must be at least 1");
  if (!(options.max_tripped_share >= 0.0 && options.max_tripped_share <= 1.0)) {
    problems.emplace_back("max_tripped_share: must be between 0 and 1");
  }
  return problems;
}

struct keyed::entry {
  std::string key;
  std::shared_ptr<policy> own;
  std::size_t in_flight = 0;  // guarded by the table's mutex, as is all else
  bool tripped = false;
};

struct keyed::table {
  using order = std::list<entry>;

  mutable std::mutex mutex;
  order entries;                                                // the most recently used first
  std::unordered_map<std::string_view, order::iterator> index;  // by the entries' own keys
  std::unique_ptr<entry> overflow;
  std::size_t tripped = 0;
  std::uint64_t evicted = 0, overflowed = 0, failed_open = 0;

  /// Forgets one idle entry, looking from the one used longest ago; no further than a few, so that a full table of busy
  /// ones does not cost every call. Those that must stay go to the front: the next search comes to others.
  bool make_room_locked(time_point now) {
    constexpr std::size_t few = 64;
    const std::size_t most = std::min(few, entries.size());
    for (std::size_t looked_at = 0; looked_at < most; ++looked_at) {
      const auto candidate = std::prev(entries.end());
      if (candidate->in_flight > 0 || candidate->own->is_tripped() || !candidate->own->is_idle(now)) {
        entries.splice(entries.begin(), entries, candidate);
        continue;
      }
      if (candidate->tripped) --tripped;
      index.erase(candidate->key);
      entries.erase(candidate);
      ++evicted;
      return true;
    }
    return false;
  }

  void note_tripped_locked(entry& e) noexcept {
    const bool now_tripped = e.own->is_tripped();
    if (now_tripped == e.tripped) return;
    e.tripped = now_tripped;
    if (now_tripped) {
      ++tripped;
    } else {
      --tripped;
    }
  }
};

/// One call's stay at the policy of its key. The slot points to it; an empty slot is a call that was let pass.
struct keyed::visit {
  visit(table& t, entry& e) noexcept : where(t), at(e) {}
  visit(const visit&) = delete;
  visit& operator=(const visit&) = delete;
  ~visit() {
    const std::lock_guard lock(where.mutex);
    --at.in_flight;
    where.note_tripped_locked(at);
  }

  table& where;
  entry& at;
  policy_slot slot;
};

keyed::keyed(std::string name, factory make, const keyed_options& options)
    : name_(std::make_shared<const std::string>(std::move(name))),
      options_((detail::require_valid("keyed '" + *name_ + "'", validate(options)), options)),
      make_(std::move(make)),
      table_(std::make_unique<table>()) {
  if (!make_) throw invalid_options_error("keyed '" + *name_ + "': make: must not be empty");
}
keyed::~keyed() = default;

admission keyed::admit(call& c, policy_slot& slot) noexcept {
  auto& mine = slot.emplace<visit*>() = nullptr;
  const auto made_for = [this](std::string_view key) {
    auto made = make_(key);
    if (made == nullptr || made->as_scope() != nullptr) {
      throw invalid_options_error("keyed '" + *name_ + "': make: must give a policy without a scope of its own");
    }
    return made;
  };
  try {
    const std::string_view key = c.info().key;
    {
      const std::lock_guard lock(table_->mutex);
      entry* found = nullptr;
      if (const auto known = table_->index.find(key); known != table_->index.end()) {
        table_->entries.splice(table_->entries.begin(), table_->entries, known->second);
        found = &*known->second;
      } else if (table_->entries.size() < options_.max_keys || table_->make_room_locked(c.now())) {
        table_->entries.push_front({std::string(key), nullptr});
        try {
          found = &table_->entries.front();
          found->own = made_for(key);
          table_->index.emplace(found->key, table_->entries.begin());
        } catch (...) {
          table_->entries.pop_front();
          throw;
        }
      } else {
        if (!table_->overflow) table_->overflow = std::make_unique<entry>(entry{{}, made_for({})});
        found = table_->overflow.get();
        ++table_->overflowed;
      }
      mine = new visit(*table_, *found);
      ++found->in_flight;
    }
    const admission said = mine->at.own->admit(c, mine->slot);
    if (said != admission::reject) return said;
  } catch (...) {
    return c.refuse(failure::current());
  }
  bool passes = false;
  {
    const std::lock_guard lock(table_->mutex);
    table_->note_tripped_locked(mine->at);
    const auto keys = static_cast<double>(table_->entries.size() + (table_->overflow ? 1 : 0));
    const auto most = std::max<std::size_t>(1, static_cast<std::size_t>(std::floor(options_.max_tripped_share * keys)));
    passes = mine->at.tripped && table_->tripped > most;
    if (passes) ++table_->failed_open;
  }
  delete std::exchange(mine, nullptr);
  if (!passes) return admission::reject;
  (void)c.take_failure();
  return admission::go;
}

awaitable<admission> keyed::wait(call& c, policy_slot& slot) {
  // Until it says go, nobody else would end the visit.
  std::unique_ptr<visit> mine(slot.get<visit*>());
  const admission said = co_await mine->at.own->wait(c, mine->slot);
  if (said == admission::go) (void)mine.release();
  co_return said;
}

verdict keyed::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  visit* mine = slot.get<visit*>();
  if (mine == nullptr) return verdict::deliver;
  const verdict said = mine->at.own->settle(c, mine->slot, outcome);
  if (said != verdict::again) delete mine;  // who asks for another attempt stays
  return said;
}

void keyed::abandon(policy_slot& slot) noexcept {
  visit* mine = slot.get<visit*>();
  if (mine == nullptr) return;
  mine->at.own->abandon(mine->slot);
  delete mine;
}

std::shared_ptr<policy> keyed::find_policy(std::string_view key) const {
  const std::lock_guard lock(table_->mutex);
  const auto known = table_->index.find(key);
  return known == table_->index.end() ? nullptr : known->second->own;
}

keyed_stats keyed::stats() const {
  const std::lock_guard lock(table_->mutex);
  return {table_->entries.size(), table_->tripped, table_->evicted, table_->overflowed, table_->failed_open};
}

std::string keyed::describe() const {
  return *name_ + ": one policy for each key, at most " + std::to_string(options_.max_keys);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
