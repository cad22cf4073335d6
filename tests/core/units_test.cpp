// Durations and rates as people write them.
#include "catch.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/core/units.hpp>

#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace units_test {
namespace {

TEST_CASE("every unit is read, whole and with decimals", "[core][units]") {
  CHECK(parse_duration("7ns") == 7ns);
  CHECK(parse_duration("7us") == 7us);
  CHECK(parse_duration("7ms") == 7ms);
  CHECK(parse_duration("7s") == 7s);
  CHECK(parse_duration("7min") == 7min);
  CHECK(parse_duration("7h") == 7h);
  CHECK(parse_duration("0.25h") == 15min);
  CHECK(parse_duration("2.5us") == 2500ns);
  CHECK(parse_duration("0.4ns") == 0ns);  // rounded to the nearest nanosecond
  CHECK(parse_duration("0.6ns") == 1ns);
  CHECK(parse_duration("-5ms") == -5ms);
}

TEST_CASE("anything else is malformed", "[core][units]") {
  for (const char* bad :
       {"",     " ",    "5",     "ms",   "5 ms", " 5ms", "5ms ", "5MS",   "5m",   "5d",           "1e3s",
        "0x5s", "+5ms", "5..1s", "5msx", "inf",  "infs", "nans", "nan s", "1,5s", "99999999999h", "--5ms"}) {
    INFO("'" << bad << "'");
    CHECK_FALSE(parse_duration(bad));
  }
}

TEST_CASE("the largest duration that is read still fits", "[core][units]") {
  CHECK(parse_duration("2500000h") == 2'500'000h);
  CHECK_FALSE(parse_duration("2600000h"));
  CHECK_FALSE(parse_duration("-2600000h"));
  CHECK_FALSE(parse_duration(std::string(400, '9') + "s"));
}

TEST_CASE("rates are events in any unit of time", "[core][units]") {
  CHECK(parse_rate("850/s") == 850.0);
  CHECK(parse_rate("30/min") == 0.5);
  CHECK(parse_rate("3600/h") == 1.0);
  CHECK(parse_rate("2/ms") == 2000.0);
  CHECK(parse_rate("0/s") == 0.0);
  CHECK(parse_rate("0.5/s") == 0.5);
  for (const char* bad : {"", "850", "/s", "-1/s", "1/x", "1/", "1 /s", "1/s ", "1//s", "1/2s", "inf/s"}) {
    INFO("'" << bad << "'");
    CHECK_FALSE(parse_rate(bad));
  }
}

TEST_CASE("durations are written in the shortest exact form", "[core][units]") {
  CHECK(to_string(0ns) == "0s");
  CHECK(to_string(1ns) == "1ns");
  CHECK(to_string(1500ns) == "1.5us");
  CHECK(to_string(20ms) == "20ms");
  CHECK(to_string(1050ms) == "1.05s");
  CHECK(to_string(1001ms) == "1.001s");
  CHECK(to_string(1000100us) == "1000.1ms");
  CHECK(to_string(90s) == "90s");
  CHECK(to_string(90min) == "90min");
  CHECK(to_string(48h) == "48h");
  CHECK(to_string(-1500ms) == "-1.5s");
}

TEST_CASE("what is written is read back, from nanoseconds to days", "[core][units]") {
  random_source random(1);
  for (int i = 0; i < 10'000; ++i) {
    const auto count = static_cast<std::int64_t>(random() >> (14 + random() % 50));  // below 2^50, 13 days
    const duration d(random() % 2 == 0 ? count : -count);
    INFO(count);
    REQUIRE(parse_duration(to_string(d)) == d);
  }
  CHECK(to_string(duration::max()) == "9223372036854775.807us");
  CHECK(to_string(duration::min()) == "-9223372036854775.808us");
}

TEST_CASE("adding to a point in time saturates", "[core][time]") {
  CHECK(saturating_add(time_point(5s), 3s) == time_point(8s));
  CHECK(saturating_add(time_point(5s), -8s) == time_point(-3s));
  CHECK(saturating_add(never, 1ns) == never);
  CHECK(saturating_add(time_point(1ns), duration::max()) == never);
  CHECK(saturating_add(time_point(-5s), duration::min()) == time_point::min());
}

TEST_CASE("a date is written as RFC 3339, as exact as asked for", "[core][units]") {
  const std::chrono::system_clock::time_point epoch{},
      leap = epoch + std::chrono::days(59) + 23h + 59min + 59s + 987654us;
  CHECK(to_string(epoch) == "1970-01-01T00:00:00.000Z");
  CHECK(to_string(leap) == "1970-03-01T23:59:59.987Z");
  CHECK(to_string(leap, 6) == "1970-03-01T23:59:59.987654Z");
  CHECK(to_string(leap, 0) == "1970-03-01T23:59:59Z");
  CHECK(to_string(epoch - 1ms) == "1969-12-31T23:59:59.999Z");
}

}  // namespace
}  // namespace units_test
