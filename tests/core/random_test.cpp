// Randomness: repeatable from its seed, independent by name, distributed as it says.
#include "catch.hpp"

#include <cofferdam/core/random.hpp>

#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace cofferdam;

namespace random_test {
namespace {

std::vector<std::uint64_t> draw(random_source source, int count) {
  std::vector<std::uint64_t> drawn;
  for (int i = 0; i < count; ++i) drawn.push_back(source());
  return drawn;
}

TEST_CASE("a source is SplitMix64, draw for draw", "[core][random]") {
  // From the reference implementation (prng.di.unimi.it/splitmix64.c) with seed 1234567.
  CHECK(draw(random_source(1234567), 5) == std::vector<std::uint64_t>{6457827717110365317U, 3203168211198807973U,
                                                                      9817491932198370423U, 4593380528125082431U,
                                                                      16408922859458223821U});
}

TEST_CASE("the same seed draws the same, also after reseeding and in a copy", "[core][random]") {
  random_source source(5);
  const auto first = draw(source, 10);
  CHECK(draw(random_source(5), 10) == first);
  CHECK(draw(random_source(6), 10) != first);
  (void)source();
  source.seed(5);
  random_source copy(source);
  CHECK(draw(source, 10) == first);
  CHECK(draw(copy, 10) == first);
}

TEST_CASE("streams split by name do not depend on each other's draws", "[core][random]") {
  const auto arrivals = draw(random_source(random_source::split(1, "arrivals")), 10);
  random_source other(random_source::split(1, "service"));
  for (int i = 0; i < 100; ++i) (void)other();
  CHECK(draw(random_source(random_source::split(1, "arrivals")), 10) == arrivals);
}

TEST_CASE("splits differ by seed and by every name", "[core][random]") {
  std::set<std::uint64_t> seeds;
  std::size_t made = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    seeds.insert(random_source::split(seed, "")), ++made;
    for (int i = 0; i < 200; ++i, ++made) seeds.insert(random_source::split(seed, "service-" + std::to_string(i)));
    seeds.insert(random_source::split(seed, "ab")), ++made;
    seeds.insert(random_source::split(seed, "ba")), ++made;
  }
  CHECK(seeds.size() == made);
}

TEST_CASE("each distribution has its range and moments", "[core][random]") {
  random_source source(1);
  constexpr int count = 100'000;
  double uniform = 0, exponential = 0, normal = 0, square = 0;
  for (int i = 0; i < count; ++i) {
    const double u = source.uniform();
    REQUIRE((u >= 0.0 && u < 1.0));
    uniform += u;
    const double e = source.exponential(10);
    REQUIRE(e >= 0.0);
    exponential += e;
    const double n = source.normal();
    normal += n;
    square += n * n;
  }
  CHECK(uniform / count == Approx(0.5).epsilon(0.01));
  CHECK(exponential / count == Approx(10).epsilon(0.02));
  CHECK(std::abs(normal / count) < 0.02);
  CHECK(square / count == Approx(1).epsilon(0.02));
}

TEST_CASE("a context has one source, seeded differently each time unless told", "[core][random]") {
  net::io_context a, b;
  CHECK(&random_of(a) == &random_of(net::any_io_executor(a.get_executor())));
  CHECK(random_of(a)() != random_of(b)());
  random_of(a).seed(3);
  random_of(b).seed(3);
  CHECK(random_of(a)() == random_of(b)());
}

TEST_CASE("threads draw from one source without drawing anything twice", "[core][random][concurrent]") {
  random_source source(1);
  std::vector<std::vector<std::uint64_t>> drawn(4);
  std::vector<std::thread> threads;
  for (auto& mine : drawn) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) mine.push_back(source());
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<std::uint64_t> all;
  for (const auto& mine : drawn) all.insert(mine.begin(), mine.end());
  const auto expected = draw(random_source(1), 4000);
  CHECK(all == std::set<std::uint64_t>(expected.begin(), expected.end()));
}

}  // namespace
}  // namespace random_test
