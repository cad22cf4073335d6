// Event files with bytes changed at random: an import either refuses one with the number of its line, or stores events
// that are exported and imported again to the same store. Event data with bytes changed at random: it is decoded, or
// refused with the event's place. Arguments: seed, number of files.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/eventsourcing/event_codec.hpp>
#include <cofferdam/eventsourcing/event_file.hpp>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

using namespace cofferdam;

namespace {

struct moved {
  std::string from, to;
  std::vector<int> weights;
};
void from_json(const nlohmann::json& j, moved& m) {
  j.at("from").get_to(m.from);
  j.at("to").get_to(m.to);
  j.at("weights").get_to(m.weights);
}

const std::string good_file =
    R"({"stream":"order-1","version":1,"id":"01900000-0000-7000-8000-000000000001","type":"order.placed","schema":1,"at":1700000000000000,"data":"{\"total\":12}","tags":["customer:7"],"position":1})"
    "\n"
    R"({"stream":"order-2","id":"01900000-0000-7000-8000-000000000002","type":"order.placed","data_hex":"00ff7f","correlation":"r","causation":"c","metadata":"m"})"
    "\n\n"
    R"({"stream":"order-1","id":"01900000-0000-7000-8000-000000000003","type":"order.paid","schema":2,"data":""})"
    "\n";
const std::string good_data = R"({"from":"a","to":"b","weights":[1,2,3]})";

class mutator {
 public:
  explicit mutator(std::uint64_t seed) : random_(seed) {}

  std::string operator()(std::string text) {
    for (std::uint64_t changes = 1 + random_() % 4; changes > 0; --changes) {
      const std::size_t at = random_() % (text.size() + 1);
      const std::size_t length = std::min<std::size_t>(random_() % 12, text.size() - at);
      switch (random_() % 5) {
        case 0:
          if (at < text.size()) text[at] = static_cast<char>(random_());
          break;
        case 1:
          text.erase(at, length);
          break;
        case 2:
          text.insert(at, 1, "{}[]\",:0-9\\\n\xff"[random_() % 14]);
          break;
        case 3:
          text.insert(at, text.substr(random_() % (text.size() + 1), length));
          break;
        default:
          text.resize(at);
      }
    }
    return text;
  }

 private:
  random_source random_;
};

struct tally {
  int imported = 0, refused = 0, decoded = 0, undecodable = 0;
};

[[noreturn]] void fail(const char* why, const std::string& text) {
  std::printf("%s:\n%s\n", why, text.c_str());
  std::exit(1);
}

awaitable<void> try_file(const std::string& text, tally& seen) {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  std::istringstream in(text);
  std::string refusal;
  try {
    (void)co_await import_events(store, in);
  } catch (const storage_error& e) {
    refusal = e.what();
  }
  const auto newest = co_await store.newest_position();
  if (!refusal.empty()) {
    if (refusal.find("line") == std::string::npos) fail(("a refusal without a line: " + refusal).c_str(), text);
    if (newest != 0) fail("a refused file left events", text);
    ++seen.refused;
    co_return;
  }
  ++seen.imported;
  std::stringstream out;
  const auto written = co_await export_events(store, out);
  const auto again = co_await import_events(store, out);
  if (again.appended != 0 || again.duplicates != written) fail("an exported file is not the same events", text);
}

awaitable<void> try_all(std::uint64_t seed, int files, tally& seen) {
  mutator mutate(seed);
  event_codec codec;
  codec.add<moved>("moved");
  for (int i = 0; i < files; ++i) {
    const std::string file = mutate(good_file);
    co_await try_file(file, seen);
    recorded_event e;
    e.type = "moved";
    e.data = mutate(good_data);
    try {
      if (codec.decode<std::variant<moved>>(e)) ++seen.decoded;
    } catch (const storage_error& refused) {
      if (refused.code() != errc::event_undecodable) fail("another error", e.data);
      ++seen.undecodable;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int files = argc > 2 ? std::atoi(argv[2]) : 1000;
  net::io_context context(1);
  virtual_time time(context);
  tally seen;
  time.run(try_all, seed, files, std::ref(seen));
  std::printf("%d imported, %d refused; %d decoded, %d undecodable\n", seen.imported, seen.refused, seen.decoded,
              seen.undecodable);
  return seen.imported > 0 && seen.refused > 0 && seen.decoded > 0 && seen.undecodable > 0 ? 0 : 1;
}
