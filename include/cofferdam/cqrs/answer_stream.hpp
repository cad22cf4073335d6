// The answer of a streaming query: a sequence that is awaited item by item. Nothing is worked out before it is asked
// for, so a slow reader slows the source down, and one that leaves ends it.
//
//     struct all_orders {
//       using result = answer_stream<order>;
//     };
//     queries.handle<all_orders>([&](const all_orders&) { return find_all(db); });
//     auto found = co_await queries.ask(q);
//     for (auto next = co_await found.next(); next; next = co_await found.next()) { ... }
#pragma once

#include <cofferdam/storage/database.hpp>

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// A value that is moved only. What it was made of it keeps: it outlives the query.
/// Thread safety: none.
template <class T> class answer_stream {
 public:
  /// @param source  anything movable with `awaitable<std::optional<T>> next()`; nothing is the end.
  template <class Source>
    requires requires(Source& s) {
      { s.next() } -> std::same_as<awaitable<std::optional<T>>>;
    } && (!std::same_as<Source, answer_stream>)
  explicit answer_stream(Source source) : source_(std::make_unique<held<Source>>(std::move(source))) {}

  /// The next item, nothing at the end and ever after. Errors: the source's, and then the end. Cancellation: reaches
  /// the source.
  [[nodiscard]] awaitable<std::optional<T>> next() {
    if (!source_) co_return std::nullopt;
    auto source = std::exchange(source_, nullptr);
    std::optional<T> item = co_await source->next();
    if (item) source_ = std::move(source);
    co_return item;
  }

 private:
  struct any_source {
    virtual ~any_source() = default;
    virtual awaitable<std::optional<T>> next() = 0;
  };
  template <class Source> struct held final : any_source {
    explicit held(Source s) : source(std::move(s)) {}
    awaitable<std::optional<T>> next() override { return source.next(); }
    Source source;
  };
  std::unique_ptr<any_source> source_;
};

namespace detail {
template <class T> class rows_source {
 public:
  rows_source(cursor from, std::function<T(const row&)> convert)
      : from_(std::move(from)), convert_(std::move(convert)) {}
  awaitable<std::optional<T>> next() {
    if (at_ == page_.size()) {
      auto page = co_await from_.next();
      if (!page) co_return std::nullopt;
      page_ = *std::move(page);
      at_ = 0;
    }
    co_return convert_(page_[at_++]);
  }

 private:
  cursor from_;
  std::function<T(const row&)> convert_;
  rows page_;
  std::size_t at_ = 0;
};
}  // namespace detail

/// The rows of a statement as a sequence, read from the database page by page as they are asked for.
/// @param page  rows. Errors: as `database::stream`.
template <class T>
[[nodiscard]] awaitable<answer_stream<T>> stream_rows(database& db, statement q, std::function<T(const row&)> convert,
                                                      std::size_t page = 100) {
  cursor from = co_await db.stream(std::move(q), page);
  co_return answer_stream<T>(detail::rows_source<T>(std::move(from), std::move(convert)));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
