// The N+1 query: one for the posts, and one more for the author of each. A batcher makes those one, and the code that
// shows a post still asks for its own author only.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/batcher.hpp>
#include <cofferdam/resilience/bulkhead.hpp>

#include <cstdio>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

struct post {
  std::string title;
  int author = 0;
};

/// Stands for a database: every query takes 20 ms, whatever it asks for.
class database {
 public:
  awaitable<std::vector<post>> select_posts() {
    co_await query("SELECT * FROM posts");
    co_return std::vector<post>{{"On tides", 7}, {"On dams", 3}, {"On pumps", 7}, {"On leaks", 12}};
  }
  awaitable<std::vector<std::string>> select_authors(std::vector<int> ids) {
    std::string list;
    for (const int id : ids) list += (list.empty() ? "" : ", ") + std::to_string(id);
    co_await query("SELECT name FROM authors WHERE id IN (" + list + ")");
    std::vector<std::string> names;
    names.reserve(ids.size());
    for (const int id : ids) names.push_back("author " + std::to_string(id));
    co_return names;
  }

 private:
  static awaitable<void> query(std::string text) {
    std::printf("  %s\n", text.c_str());
    co_await sleep_for(20ms);
  }
};

using author_names = batcher<int, std::string>;

awaitable<std::string> show(author_names& authors, post p) {
  const std::string name = co_await authors.load(p.author);
  co_return p.title + ", by " + name;
}

awaitable<void> front_page(database& db, author_names& authors, virtual_time& time) {
  const auto began = time.now();
  auto posts = co_await db.select_posts();
  bulkhead lines("lines", {.max_concurrent = 100});
  const auto show_one = [&](post p) { return show(authors, std::move(p)); };
  const auto shown = co_await lines.map(std::move(posts), show_one);
  for (const auto& line : shown) std::printf("%s\n", line.c_str());
  std::printf("%lld ms\n\n", static_cast<long long>((time.now() - began) / 1ms));
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  database db;
  const auto select = [&](std::vector<int> ids) { return db.select_authors(std::move(ids)); };

  std::printf("one by one:\n");
  author_names one_by_one("authors", select, {.max_size = 1});
  time.run([&] { return front_page(db, one_by_one, time); });

  std::printf("in batches:\n");
  author_names batched("authors", select, {.max_delay = 0ms});  // what is asked for in one turn of the executor
  time.run([&] { return front_page(db, batched, time); });

  const auto s = batched.stats();
  std::printf("%d calls, %d of them for what was asked for already, %d batch\n", static_cast<int>(s.calls),
              static_cast<int>(s.deduplicated), static_cast<int>(s.batches));
}
