// cofferdam-outbox: the operator's desk on the command line. The exit code is the verdict: 0 done, 1 nothing found, 2
// misuse, 3 trouble with the database.
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/outbox/desk.hpp>
#include <cofferdam/outbox/outbox.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <ctime>
#include <optional>
#include <string>
#include <vector>

using namespace cofferdam;

namespace {

using date = std::chrono::system_clock::time_point;

struct request {
  std::string url, relay = "relay", verb, key, since, until;
  bool json = false, all = false;
  std::uint64_t number = 0;
  std::size_t limit = 100;
};

struct nothing_found : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// --------------------------------------------------------------------------------------------------------------- dates

/// "2026-03-01", "2026-03-01T12:00:00Z", or how long ago: "2h". Nothing when it is none of them.
std::optional<date> date_of(const std::string& text, date now) {
  if (const auto ago = parse_duration(text)) {
    return now - std::chrono::duration_cast<std::chrono::system_clock::duration>(*ago);
  }
  for (const char* form : {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d"}) {
    std::tm parts{};
    const char* const end = ::strptime(text.c_str(), form, &parts);
    if (end != nullptr && *end == '\0') return std::chrono::system_clock::from_time_t(::timegm(&parts));
  }
  return std::nullopt;
}

std::string check_date(const std::string& text) {
  return date_of(text, date()) ? std::string()
                               : "'" + text + "' is no time such as 2026-03-01T12:00:00Z, 2026-03-01, or 2h (ago)";
}

// -------------------------------------------------------------------------------------------------------------- output

void print(const nlohmann::json& made) { std::printf("%s\n", made.dump(2).c_str()); }

std::string to_text(const relay_request& r) {
  if (r.what == relay_request::kind::replay) return "replay '" + r.key + "'";
  return "republish from " + to_string(r.from) + " to " + to_string(r.to) +
         (r.reached > 0 ? ", at number " + std::to_string(r.reached) : "");
}

nlohmann::json json_of(const relay_request& r) {
  nlohmann::json made{{"asked_at", to_string(r.at)}};
  if (r.what == relay_request::kind::replay) {
    made.update({{"verb", "replay"}, {"key", r.key}});
  } else {
    made.update(
        {{"verb", "republish"}, {"since", to_string(r.from)}, {"until", to_string(r.to)}, {"reached", r.reached}});
  }
  return made;
}

nlohmann::json json_of(const parked_message& p) {
  const message& m = p.content;
  return {{"number", m.number()},
          {"id", m.id()},
          {"key", m.key()},
          {"topic", m.topic()},
          {"type", m.type()},
          {"added_at", to_string(m.time())},
          {"parked_at", to_string(p.since)},
          {"reason", p.reason},
          {"bytes", m.payload().size()}};
}

// --------------------------------------------------------------------------------------------------------------- verbs

awaitable<void> show_status(outbox_desk& desk, const request& r) {
  const auto executor = co_await net::this_coro::executor;
  const relay_status now = co_await desk.status();
  const auto requests = co_await desk.requests();
  if (r.json) {
    nlohmann::json made{{"relay", r.relay},
                        {"backlog", now.backlog},
                        {"parked", now.parked},
                        {"delayed", now.delayed},
                        {"owned_parts", now.owned_parts},
                        {"oldest", nullptr},
                        {"requests", nlohmann::json::array()}};
    if (now.oldest) made["oldest"] = to_string(*now.oldest);
    for (const auto& one : requests) made["requests"].push_back(json_of(one));
    print(made);
    co_return;
  }
  std::printf(
      "relay     %s: %s\n", r.relay.c_str(),
      now.owned_parts > 0 ? (std::to_string(now.owned_parts) + " parts are served").c_str() : "nobody is at work");
  std::printf("backlog   %llu\n", static_cast<unsigned long long>(now.backlog));
  if (now.oldest) {
    const auto age = std::chrono::floor<std::chrono::seconds>(timers_of(executor).date() - *now.oldest);
    std::printf("oldest    %s, %s ago\n", to_string(*now.oldest).c_str(), to_string(duration(age)).c_str());
  }
  std::printf("parked    %llu\n", static_cast<unsigned long long>(now.parked));
  std::printf("delayed   %llu\n", static_cast<unsigned long long>(now.delayed));
  for (const auto& one : requests) std::printf("asked     %s: %s\n", to_string(one.at).c_str(), to_text(one).c_str());
}

awaitable<void> list(outbox_desk& desk, const request& r) {
  const auto found = co_await desk.parked(r.limit);
  if (r.json) {
    auto all = nlohmann::json::array();
    for (const auto& one : found) all.push_back(json_of(one));
    print(all);
  } else if (!found.empty()) {
    std::printf("%-10s %-24s  %-20s %-20s %-20s %s\n", "NUMBER", "PARKED", "KEY", "TOPIC", "TYPE", "REASON");
    for (const auto& [m, reason, since] : found) {
      std::printf("%-10llu %s  %-20s %-20s %-20s %s\n", static_cast<unsigned long long>(m.number()),
                  to_string(since).c_str(), m.key().c_str(), m.topic().c_str(), m.type().c_str(),
                  reason.empty() ? "follows" : reason.c_str());
    }
  }
  if (found.empty()) throw nothing_found("nothing is parked");
}

/// Says what relays are going to do, and whether there are any.
awaitable<void> promise(outbox_desk& desk, const request& r, std::string what) {
  const relay_status now = co_await desk.status();
  const bool is_served = now.owned_parts > 0;
  if (r.json) {
    print({{"asked", what}, {"is_served", is_served}});
  } else {
    std::printf("asked: %s\n%s\n", what.c_str(),
                is_served ? "relays begin within a second; status tells when it is done"
                          : ("no relay '" + r.relay + "' is at work: it is done when one is").c_str());
  }
}

awaitable<void> replay(outbox_desk& desk, const request& r) {
  std::size_t messages = 0;
  if (r.all) {
    messages = co_await desk.ask_replay_all();
  } else {
    messages = co_await desk.ask_replay(r.key);
  }
  if (messages == 0) throw nothing_found(r.all ? "nothing is parked" : "nothing is parked of the key '" + r.key + "'");
  std::string what = "replay of " + std::to_string(messages) + (messages == 1 ? " message" : " messages");
  co_await promise(desk, r, std::move(what));
}

awaitable<void> skip(outbox_desk& desk, const request& r) {
  const bool was_there = co_await desk.skip(r.number);
  const std::string name = "message " + std::to_string(r.number);
  if (!was_there) throw nothing_found(name + " is not parked");
  if (r.json) {
    print({{"skipped", r.number}});
  } else {
    std::printf("%s is given up\n", name.c_str());
  }
}

awaitable<void> republish(outbox_desk& desk, const request& r) {
  const auto executor = co_await net::this_coro::executor;
  const date now = timers_of(executor).date();
  const date from = *date_of(r.since, now);
  const date to = r.until.empty() ? now : *date_of(r.until, now);
  const std::string range = "what was added from " + to_string(from) + " to " + to_string(to);
  const bool is_some = co_await desk.ask_republish(from, to);
  if (!is_some) throw nothing_found("there is nothing of " + range);
  std::string what = "republish " + range;
  co_await promise(desk, r, std::move(what));
}

awaitable<void> require_outbox(database& db, const request& r) {
  std::string names;
  bool is_known = false;
  try {
    const rows found = co_await db.query("select distinct relay from cofferdam_relay_parts order by relay");
    for (const row each : found) {
      const auto name = each.get<std::string>(0);
      is_known = is_known || name == r.relay;
      names += (names.empty() ? "'" : ", '") + name + "'";
    }
  } catch (const storage_error& e) {
    if (e.code() != errc::invalid_statement) throw;
    throw storage_error(errc::schema_mismatch,
                        "'" + db.name() + "' holds no outbox: no outbox::open was ever called on it");
  }
  if (!is_known && !names.empty()) {
    throw nothing_found("no relay '" + r.relay + "' ever was at work here; --relay takes one of " + names);
  }
}

awaitable<void> work(const request& r) {
  database_options options;
  options.create = false;
  database db = co_await database::open(r.url, options);
  co_await require_outbox(db, r);
  outbox messages = co_await outbox::open(db);
  outbox_desk desk(messages, r.relay);
  if (r.verb == "status") co_await show_status(desk, r);
  if (r.verb == "list") co_await list(desk, r);
  if (r.verb == "replay") co_await replay(desk, r);
  if (r.verb == "skip") co_await skip(desk, r);
  if (r.verb == "republish") co_await republish(desk, r);
  co_await db.close();
}

// ----------------------------------------------------------------------------------------------------------- arguments

void add_all(CLI::App& app, request& r) {
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--database", r.url, "sqlite:PATH or postgresql://user@host/name")->required();
  app.add_option("--relay", r.relay, "the name of the relays in question")->capture_default_str();
  app.add_flag("--json", r.json, "prints JSON");
  app.add_subcommand("status", "what waits to be published, and what was asked for here");
  app.add_subcommand("list", "messages that were put aside, and why")
      ->add_option("--limit", r.limit, "how many at most")
      ->capture_default_str();
  CLI::App* replay = app.add_subcommand("replay", "publishes what was put aside, in order, and opens its key again");
  auto* key = replay->add_option("key", r.key, "of the messages");
  auto* all = replay->add_flag("--all", r.all, "of every key");
  key->excludes(all);
  replay->callback([&r, key] {
    if (key->count() == 0 && !r.all) throw CLI::RequiredError("KEY or --all");
  });
  app.add_subcommand("skip", "gives up a message that was put aside")
      ->add_option("number", r.number, "as list tells")
      ->required();
  CLI::App* republish =
      app.add_subcommand("republish", "publishes again, with the same ids, as after a loss at the broker");
  republish->add_option("--since", r.since, "2026-03-01T12:00:00Z, 2026-03-01, or how long ago: 2h")
      ->required()
      ->check(check_date);
  republish->add_option("--until", r.until, "as --since; now, if left out")->check(check_date);
  app.footer(
      "What is asked for here is carried out by the relays that run on the database, in any process; whoever starts "
      "one\n"
      "chose its broker. Exit code: 0 done, 1 nothing found, 2 misuse, 3 trouble with the database.");
}

int report(int code, const std::string& what) {
  std::fprintf(stderr, "cofferdam-outbox: %s\n", what.c_str());
  return code;
}

int run(const request& r) {
  net::io_context context(1);
  std::exception_ptr error;
  net::co_spawn(context, work(r), [&error](const std::exception_ptr& e) { error = e; });
  context.run();
  try {
    if (error) std::rethrow_exception(error);
    return 0;
  } catch (const nothing_found& e) {
    return report(1, e.what());
  } catch (const storage_error& e) {
    return report(3, e.what());
  } catch (const std::exception& e) {
    return report(2, e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  request r;
  CLI::App app("Looks at an outbox, and decides about what was put aside.", "cofferdam-outbox");
  add_all(app, r);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    (void)app.exit(e);
    return 2;
  }
  r.verb = app.get_subcommands().front()->get_name();
  return run(r);
}
