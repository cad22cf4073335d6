#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/detail/driver.hpp>

#include <array>
#include <cstdio>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

template <class T> awaitable<T> valued(awaitable<outcome<T>> attempt) {
  auto result = co_await std::move(attempt);
  if constexpr (std::is_void_v<T>) {
    result.value();
  } else {
    co_return std::move(result).value();
  }
}

/// Enough to notice that somebody edited a step that is long out there.
std::string fingerprint(const migration& step) {
  std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a, 64 bits
  const auto mix = [&hash](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    hash = (hash ^ 0xffU) * 0x100000001b3U;  // where one statement ends
  };
  for (const auto& statement : step.statements) mix(statement);
  std::array<char, 17> hex{};
  std::snprintf(hex.data(), hex.size(), "%016llx", static_cast<unsigned long long>(hash));
  return hex.data();
}

void require_history(const std::string& component, const std::vector<migration>& history) {
  std::uint32_t expected = 0;
  for (const auto& step : history) {
    if (step.version != ++expected) {
      throw storage_error(errc::schema_mismatch,
                          "the history of '" + component + "' must count 1, 2, 3, ..., but has " +
                              std::to_string(step.version) + " where " + std::to_string(expected) + " should be");
    }
  }
}

std::string describe(const std::string& component, const migration& step) {
  return "step " + std::to_string(step.version) + " of '" + component + "' (" + step.name + ")";
}

/// A step is wrong, unless it is the database that has trouble.
errc code_of_step(const std::error_code& code) noexcept {
  const bool is_the_steps = !is_ours(code) || code == errc::invalid_statement || code == errc::constraint_violated ||
                            code == errc::condition_failed;
  return is_the_steps ? errc::invalid_statement : static_cast<errc>(code.value());
}

/// Errors: `schema_mismatch` unless what is applied is a beginning of `history`.
std::size_t require_beginning(const std::string& component, const std::vector<migration>& history,
                              const rows& applied) {
  if (applied.size() > history.size()) {
    throw storage_error(errc::schema_mismatch, "the database has '" + component + "' in version " +
                                                   std::to_string(applied.size()) + ", this program knows " +
                                                   std::to_string(history.size()) + "; run a newer program");
  }
  for (std::size_t i = 0; i < applied.size(); ++i) {
    if (applied[i].get<std::string>("fingerprint") == fingerprint(history[i])) continue;
    throw storage_error(errc::schema_mismatch, describe(component, history[i]) +
                                                   " was applied with other statements; add a new step, do not edit "
                                                   "an old one");
  }
  return applied.size();
}

}  // namespace

cursor::cursor(std::unique_ptr<detail::storage_cursor> implementation) noexcept
    : implementation_(std::move(implementation)) {}
cursor::cursor(cursor&&) noexcept = default;
cursor& cursor::operator=(cursor&&) noexcept = default;
cursor::~cursor() = default;

awaitable<std::optional<rows>> cursor::next() {
  if (!implementation_) co_return std::nullopt;
  auto page = co_await implementation_->next();
  if (!page || page->empty()) implementation_.reset();
  rows found = std::move(page).value();
  if (found.empty()) co_return std::nullopt;
  co_return std::optional<rows>(std::move(found));
}

database::database(std::shared_ptr<detail::storage_driver> driver) noexcept : driver_(std::move(driver)) {}
database::database(database&&) noexcept = default;
database& database::operator=(database&&) noexcept = default;
database::~database() = default;

awaitable<database> database::open(std::string url, database_options options) {
  std::shared_ptr<detail::storage_driver> driver;
  if (url.starts_with("postgresql://") || url.starts_with("postgres://")) {
    driver = co_await detail::open_postgres(std::move(url), options);
  } else {
    driver = co_await detail::open_sqlite(std::move(url), options);
  }
  co_return database(std::move(driver));
}

awaitable<receipt> database::commit(batch b) { return valued(driver_->commit(std::move(b))); }
awaitable<outcome<receipt>> database::try_commit(batch b) { return driver_->commit(std::move(b)); }
awaitable<rows> database::query(statement q) { return valued(driver_->query(std::move(q))); }

awaitable<void> database::read(std::shared_ptr<operation> o) { return valued(driver_->read(std::move(o))); }

awaitable<cursor> database::stream(statement q, std::size_t page) {
  auto opened = co_await driver_->open_cursor(std::move(q), page == 0 ? 1 : page);
  co_return cursor(std::move(opened).value());
}

awaitable<void> database::migrate(std::string component, std::vector<migration> history) {
  require_history(component, history);
  // One at a time, where the database would let several at it.
  const std::string lock = driver_->migration_lock();
  batch table;
  if (!lock.empty()) table.execute(lock);
  table.execute(
      "create table if not exists cofferdam_migrations(component text not null, version bigint not null, name text not "
      "null, fingerprint text not null, primary key(component, version))");
  co_await commit(std::move(table));
  for (;;) {
    const rows applied = co_await query(
        "select version, fingerprint from cofferdam_migrations where component = $1 order by version", component);
    const std::size_t next = require_beginning(component, history, applied);
    if (next == history.size()) co_return;
    const migration& step = history[next];
    batch b;
    if (!lock.empty()) b.execute(lock);
    // Another process that did the same in the meantime makes it fail here.
    b.execute("insert into cofferdam_migrations(component, version, name, fingerprint) values($1, $2, $3, $4)",
              component, step.version, step.name, fingerprint(step));
    for (const auto& sql : step.statements) b.execute(sql);
    const auto done = co_await try_commit(std::move(b));
    if (done) continue;
    const rows now = co_await query("select count(*) from cofferdam_migrations where component = $1", component);
    if (now.front().get<std::size_t>(0) > next) continue;  // another process was faster
    const auto cause = done.why().exception();
    throw storage_error(code_of_step(done.code()), describe(component, step) + " failed: " + done.why().message(), {},
                        cause);
  }
}

std::uint64_t database::changes() const noexcept { return driver_->changes.count(); }
awaitable<std::uint64_t> database::wait_for_change(std::uint64_t seen, duration limit) {
  driver_->hear_others();
  return driver_->changes.wait(seen, limit);
}
awaitable<void> database::close() { return driver_->close(); }
awaitable<outcome<void>> database::check_health() { return driver_->check_health(); }
const std::string& database::name() const noexcept { return driver_->name(); }
bool database::has_one_writer() const { return driver_->migration_lock().empty(); }
database_stats database::stats() const { return driver_->stats(); }
event_channel<database_event>& database::events() noexcept { return driver_->events; }

}  // namespace cofferdam::inline COFFERDAM_ABI
