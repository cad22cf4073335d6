// Parts of a work that members of a group, in any processes, share fairly: each part belongs to one member for a while,
// and an epoch fences what a former owner still writes. On both drivers; the tables are the user's, who makes them:
//
//     PARTS(GROUP text, part bigint, position bigint, owner text, epoch bigint, expires_at bigint, key(GROUP, part))
//     MEMBERS(GROUP text, id text, beat_at bigint, key(GROUP, id))
#pragma once

#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// What a part is to a member.
struct leased_part {
  std::size_t number = 0;
  std::uint64_t epoch = 0, position = 0;
  time_point renewed{};
  enum class hold : std::uint8_t { none, taking, ours } held = hold::none;

  [[nodiscard]] bool is_ours() const noexcept { return held == hold::ours; }
};

struct part_tables {
  std::string parts, members;
  std::string group;  ///< the column of the group's name
};

/// One member. Thread safety: its owner's strand. Errors of every function: `storage_error`.
class part_leases {
 public:
  part_leases(database& db, part_tables tables, std::string group, std::string id, duration lease,
              const timer_service& timers);

  /// Makes the rows of parts 0 to `parts`, if they are not there, at `position`.
  [[nodiscard]] awaitable<void> create(std::size_t parts, std::uint64_t position);
  /// Tells the others that this member is alive, and how many of `parts` each may hold.
  [[nodiscard]] awaitable<std::size_t> fair_share(std::size_t parts);
  /// Takes a part that nobody has, or somebody silent. True when it is ours now. What else `p` remembers was of another
  /// time, and is forgotten.
  template <std::derived_from<leased_part> Part> [[nodiscard]] awaitable<bool> take(Part& p) {
    const bool is_taken = co_await take_lease(p);
    Part fresh;
    static_cast<leased_part&>(fresh) = p;
    p = std::move(fresh);
    co_return is_taken;
  }
  /// Gives it back, at the position that is written. Errors: none; it expires.
  [[nodiscard]] awaitable<void> release(leased_part& p);
  /// False when it is lost, or stands elsewhere than `p` says: to be taken anew.
  [[nodiscard]] awaitable<bool> renew(leased_part& p);
  /// This member counts no longer. Errors: none.
  [[nodiscard]] awaitable<void> leave();

  /// `b` happens only while `p` is ours.
  void fence(batch& b, const leased_part& p) const;
  /// As `fence`; and `p` moves on to `position`, if it stands where `p` says, and is renewed.
  void write(batch& b, const leased_part& p, std::uint64_t position) const;
  /// What the error of a batch says whose part was lost.
  [[nodiscard]] static std::string loss_of(const leased_part& p);

  /// The lease may be over by now, for all we know: nothing more begins.
  [[nodiscard]] bool is_stale(const leased_part& p) const {
    return timers_->now() > saturating_add(p.renewed, lease_ * 2 / 3);
  }
  [[nodiscard]] bool is_due(const leased_part& p) const {
    return timers_->now() > saturating_add(p.renewed, lease_ / 3);
  }
  [[nodiscard]] std::int64_t now() const { return to_microseconds(timers_->date()); }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }

 private:
  [[nodiscard]] awaitable<bool> take_lease(leased_part& p);
  [[nodiscard]] std::int64_t lease_end() const {
    return now() + std::chrono::ceil<std::chrono::microseconds>(lease_).count();
  }

  database* db_;
  std::string group_, id_;
  duration lease_;
  const timer_service* timers_;
  std::string insert_part_, beats_, beat_, free_, take_, release_, renew_, leave_, write_, owned_;
};

/// Parts of ours, and those that may become so.
template <class Parts> [[nodiscard]] std::size_t parts_held(const Parts& parts) {
  std::size_t held = 0;
  for (const leased_part& p : parts) held += p.held != leased_part::hold::none ? 1 : 0;
  return held;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
