#include <cofferdam/storage/batch.hpp>
#include <cofferdam/storage/storage_error.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<statement> operation::statements() {
  throw storage_error(errc::invalid_statement, "this operation works on SQLite only");
}
void operation::answered(std::vector<rows> /*found*/) {}
std::optional<statement> operation::question(const postgres::complaint& /*why*/) const { return std::nullopt; }
void operation::refused(const postgres::complaint& /*why*/, const rows& /*found*/) const {}

batch& batch::lock(std::string_view name, lock_mode mode) {
  lock_key(detail::hash_of(name), mode);
  return *this;
}

void batch::lock_key(std::int64_t key, lock_mode mode) {
  const auto [at, is_new] = locks_.emplace(key, mode);
  if (!is_new && mode == lock_mode::exclusive) at->second = mode;
}

batch& batch::add(batch other) {
  for (auto& each : other.steps_) steps_.push_back(std::move(each));
  statements_ += other.statements_;
  for (const auto& [key, mode] : other.locks_) lock_key(key, mode);
  locks_everything_ = locks_everything_ || other.locks_everything_;
  return *this;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
