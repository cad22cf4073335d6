// A log that grew old: three generations of one event in one stream, written by programs that are long gone, and read
// by today's as if all had been written today. Nothing in the log is ever changed.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/eventsourcing/event_file.hpp>
#include <cofferdam/eventsourcing/repository.hpp>

#include <cstdio>
#include <sstream>

using namespace cofferdam;

// What the first programs wrote, as `export_events` gave it out.
//   schema 1: {"name": "Ada Lovelace"}                        the type was called "customer.signed_up" then
//   schema 2: {"first": "Grace", "last": "Hopper"}            names were taken apart
//   schema 3: {"first": ..., "last": ..., "country": "US"}    and today customers live somewhere
constexpr const char* old_log =
    R"({"stream":"customers","version":1,"id":"018f0000-0000-7000-8000-000000000001","type":"customer.signed_up","schema":1,"at":1500000000000000,"data":"{\"name\":\"Ada Lovelace\"}"}
{"stream":"customers","version":2,"id":"018f0000-0000-7000-8000-000000000002","type":"customer.registered","schema":2,"at":1600000000000000,"data":"{\"first\":\"Grace\",\"last\":\"Hopper\"}"}
{"stream":"customers","version":3,"id":"018f0000-0000-7000-8000-000000000003","type":"customer.registered","schema":3,"at":1700000000000000,"data":"{\"first\":\"Edsger\",\"last\":\"Dijkstra\",\"country\":\"NL\"}"}
)";

struct registered {
  std::string first, last, country;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(registered, first, last, country)

struct customers {
  using event = std::variant<registered>;
  std::vector<std::string> lines;
  void apply(const registered& e) { lines.push_back(e.last + ", " + e.first + " (" + e.country + ")"); }
};

namespace {

awaitable<void> read_old_events() {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  std::istringstream file(old_log);
  const import_result imported = co_await import_events(store, file);
  std::printf("%zu old events\n", imported.appended);

  event_codec codec;
  codec.add<registered>("customer.registered", 3);
  codec.rename("customer.signed_up", "customer.registered");
  codec.upcast("customer.registered", 1, [](nlohmann::json old) {
    const auto name = old.at("name").get<std::string>();
    const std::size_t space = name.find(' ');
    return nlohmann::json{{"first", name.substr(0, space)}, {"last", name.substr(space + 1)}};
  });
  codec.upcast("customer.registered", 2, [](nlohmann::json old) {
    old["country"] = "unknown";
    return old;
  });

  repository<customers> repository(store, codec, "");
  const auto decide = [](const customers&) {
    return std::vector<customers::event>{registered{"Barbara", "Liskov", "US"}};
  };
  const auto all = co_await repository.decide("customers", decide);
  for (const auto& line : all.state.lines) std::printf("%s\n", line.c_str());

  const slice stored = co_await store.read_stream("customers");
  for (const auto& e : stored.events) std::printf("%s schema %u\n", e.type.c_str(), e.schema);
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  time.run(read_old_events);
}
