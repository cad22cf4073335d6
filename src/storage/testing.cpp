#include <cofferdam/storage/detail/driver.hpp>
#include <cofferdam/storage/testing.hpp>

#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

class watched_driver final : public detail::storage_driver {
 public:
  watched_driver(std::shared_ptr<storage_driver> below, database_watcher watch)
      : below_(std::move(below)), watch_(std::move(watch)) {
    listening_.emplace(below_->events.subscribe([this](const database_event& e) {
      if (e.what == database_event::kind::committed) changes.raise();
      events.publish(e);
    }));
  }

  awaitable<outcome<receipt>> commit(batch b) override { return seen("commit", below_->commit(std::move(b))); }
  awaitable<outcome<rows>> query(statement q) override { return seen("query", below_->query(std::move(q))); }
  awaitable<outcome<void>> read(std::shared_ptr<operation> o) override {
    return seen("read", below_->read(std::move(o)));
  }
  awaitable<outcome<std::unique_ptr<detail::storage_cursor>>> open_cursor(statement q, std::size_t page) override {
    return seen("open cursor", below_->open_cursor(std::move(q), page));
  }
  awaitable<outcome<void>> check_health() override { return below_->check_health(); }
  awaitable<void> close() override { co_return; }
  void hear_others() override { below_->hear_others(); }
  [[nodiscard]] std::string migration_lock() const override { return below_->migration_lock(); }
  [[nodiscard]] const std::string& name() const noexcept override { return below_->name(); }
  [[nodiscard]] database_stats stats() const override { return below_->stats(); }

 private:
  /// The call has not begun before it is awaited.
  template <class T> awaitable<outcome<T>> seen(std::string_view what, awaitable<outcome<T>> call) {
    failure why = told(what, false);
    if (why) co_return why;
    auto result = co_await std::move(call);
    why = told(what, true);
    if (why) co_return why;
    co_return std::move(result);
  }
  [[nodiscard]] failure told(std::string_view what, bool is_over) const {
    try {
      watch_(what, is_over);
    } catch (const std::exception& e) {
      return failure::current(e);
    }
    return {};
  }

  std::shared_ptr<storage_driver> below_;
  database_watcher watch_;
  std::optional<subscription> listening_;
};

}  // namespace

database watched(database& below, database_watcher watch) {
  return detail::database_access::of(
      std::make_shared<watched_driver>(detail::database_access::driver_of(below), std::move(watch)));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
