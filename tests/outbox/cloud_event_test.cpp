#include "catch.hpp"

#include <cofferdam/outbox/cloud_event.hpp>

#include <map>
#include <string>

using namespace cofferdam;

TEST_CASE("a trace context is read and written as the W3C says") {
  const std::string text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  const auto read = trace_context::parse(text);
  REQUIRE(read);
  CHECK(read->trace_id() == "4bf92f3577b34da6a3ce929d0e0e4736");
  CHECK(read->parent_id() == "00f067aa0ba902b7");
  CHECK(read->is_sampled());
  CHECK(read->to_string() == text);
  random_source random(7);
  const auto child = read->child(random);
  CHECK(child.trace_id() == read->trace_id());
  CHECK(child.parent_id() != read->parent_id());
  const auto begun = trace_context::begin(random, false);
  const auto back = trace_context::parse(begun.to_string());
  REQUIRE(back);
  CHECK(!back->is_sampled());
  CHECK(back->trace_id() == begun.trace_id());
  // a later version may say more
  CHECK(trace_context::parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"));
}

TEST_CASE("what is no trace context begins none") {
  for (const char* text : {"", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
                           "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more"}) {
    INFO(text);
    CHECK(!trace_context::parse(text));
  }
}

TEST_CASE("a message says what a CloudEvent must say") {
  message m = as_cloud_event(message("orders.placed", "order.placed.v1", "{}").key("ada").id("m-1"), "shop");
  using namespace std::chrono;
  m.place(1, system_clock::time_point(seconds(1'700'000'000) + microseconds(1'234)));
  std::map<std::string, std::string> all;
  for_each_cloud_event_attribute(m, [&all](const char* name, const std::string& text) { all[name] = text; });
  CHECK(all == std::map<std::string, std::string>{{"specversion", "1.0"},
                                                  {"id", "m-1"},
                                                  {"type", "order.placed.v1"},
                                                  {"time", "2023-11-14T22:13:20.001234Z"},
                                                  {"partitionkey", "ada"}});
  CHECK(m.headers().at("ce-source") == "shop");
  CHECK(m.headers().at("content-type") == "application/json");
}
