#include <cofferdam/storage/detail/part_leases.hpp>

#include <algorithm>
#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

part_leases::part_leases(database& db, part_tables tables, std::string group, std::string id, duration lease,
                         const timer_service& timers)
    : db_(&db), group_(std::move(group)), id_(std::move(id)), lease_(lease), timers_(&timers) {
  const std::string& name = tables.group;
  const std::string ours = " where " + name + " = $1 and part = $2 and owner = $3 and epoch = $4";
  const std::string unowned = "(owner is null or owner = $3 or expires_at < $4)";
  insert_part_ = "insert into " + tables.parts + "(" + name +
                 ", part, position, epoch, expires_at) values($1, $2, $3, 0, 0) on conflict do nothing";
  beats_ = "select id, beat_at from " + tables.members + " where " + name + " = $1 and beat_at > $2";
  beat_ = "insert into " + tables.members + "(" + name + ", id, beat_at) values($1, $2, $3) on conflict(" + name +
          ", id) do update set beat_at = $3";
  free_ = "select 1 from " + tables.parts + " where " + name + " = $1 and part = $2 and " + unowned;
  take_ = "update " + tables.parts + " set owner = $3, epoch = epoch + 1, expires_at = $5 where " + name +
          " = $1 and part = $2 and " + unowned + " returning epoch, position";
  release_ = "update " + tables.parts + " set owner = null" + ours;
  renew_ = "update " + tables.parts + " set expires_at = $5" + ours;
  leave_ = "delete from " + tables.members + " where " + name + " = $1 and id = $2";
  write_ = "update " + tables.parts + " set position = $5, expires_at = $6" + ours;
  // Locked, or another could take the part, and write, before this batch has ended; on SQLite one writes.
  owned_ = "select 1 from " + tables.parts + ours + (db.has_one_writer() ? "" : " for update");
}

awaitable<void> part_leases::create(std::size_t parts, std::uint64_t position) {
  batch b;
  for (std::size_t i = 0; i < parts; ++i) b.execute(insert_part_, group_, i, position);
  co_await db_->commit(std::move(b));
}

awaitable<std::size_t> part_leases::fair_share(std::size_t parts) {
  const std::int64_t at = now();
  const std::int64_t lease = lease_end() - at;
  const rows beats = co_await db_->query(beats_, group_, at - lease);
  std::optional<std::int64_t> mine;
  std::size_t members = 0;
  for (const row r : beats) {
    ++members;
    if (r.get<std::string>(0) == id_) mine = r.get<std::int64_t>(1);
  }
  if (!mine || *mine + lease / 3 < at) {
    batch b;
    b.execute(beat_, group_, id_, at);
    co_await db_->commit(std::move(b));
    if (!mine) ++members;
  }
  co_return (parts + members - 1) / std::max<std::size_t>(members, 1);
}

awaitable<bool> part_leases::take_lease(leased_part& p) {
  p.held = leased_part::hold::taking;
  // Looks first: a commit in vain would wake whoever waits for changes, ourselves too.
  const rows free = co_await db_->query(free_, group_, p.number, id_, now());
  leased_part taken;
  taken.number = p.number;
  if (!free.empty()) {
    batch b;
    const std::size_t update = b.execute(take_, group_, p.number, id_, now(), lease_end());
    taken.renewed = timers_->now();
    const receipt done = co_await db_->commit(std::move(b));
    for (const row r : done[update]) {
      taken.epoch = r.get<std::uint64_t>(0);
      taken.position = r.get<std::uint64_t>(1);
      taken.held = leased_part::hold::ours;
    }
  }
  p = taken;
  co_return p.is_ours();
}

awaitable<void> part_leases::release(leased_part& p) {
  p.held = leased_part::hold::none;
  batch b;
  b.execute(release_, group_, p.number, id_, p.epoch);
  (void)co_await db_->try_commit(std::move(b));
}

awaitable<bool> part_leases::renew(leased_part& p) {
  const auto began = timers_->now();
  batch b;
  const std::size_t renewed = b.execute(renew_, group_, p.number, id_, p.epoch, lease_end());
  const receipt done = co_await db_->commit(std::move(b));
  const bool is_still_ours = done[renewed].affected() > 0;
  if (is_still_ours) p.renewed = began;
  if (!is_still_ours) p.held = leased_part::hold::none;
  co_return is_still_ours;
}

awaitable<void> part_leases::leave() {
  batch b;
  b.execute(leave_, group_, id_);
  (void)co_await db_->try_commit(std::move(b));
}

std::string part_leases::loss_of(const leased_part& p) { return "part " + std::to_string(p.number) + " is ours"; }

void part_leases::write(batch& b, const leased_part& p, std::uint64_t position) const {
  b.require_change(loss_of(p), write_, group_, p.number, id_, p.epoch, position, lease_end());
}
void part_leases::fence(batch& b, const leased_part& p) const {
  b.require(loss_of(p), owned_, group_, p.number, id_, p.epoch);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
