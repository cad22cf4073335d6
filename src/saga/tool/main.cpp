// cofferdam-saga: the operator's desk on the command line. The exit code is the verdict: 0 done, 1 there is no such
// saga or it cannot be done to it, 2 misuse, 3 trouble with the database.
#include <cofferdam/core/units.hpp>
#include <cofferdam/saga/admin.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

using namespace cofferdam;

namespace {

constexpr saga::saga_state states[] = {saga::saga_state::running,      saga::saga_state::waiting,
                                       saga::saga_state::compensating, saga::saga_state::completed,
                                       saga::saga_state::compensated,  saga::saga_state::stuck,
                                       saga::saga_state::paused,       saga::saga_state::abandoned};

struct misuse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct request {
  std::string url, verb;
  bool json = false;
  std::string id, key, result, file, who, why;
  std::string state, name, unchanged_for;
  std::size_t limit = 100;
};

// -------------------------------------------------------------------------------------------------------------- output

nlohmann::json json_of(const saga::saga_info& info) {
  nlohmann::json made{{"id", info.id},
                      {"definition", info.definition},
                      {"version", info.version},
                      {"state", std::string(to_string(info.state))},
                      {"reason", info.reason},
                      {"epoch", info.epoch},
                      {"is_owned", info.is_owned},
                      {"has_pivoted", info.has_pivoted},
                      {"created_at", to_string(info.created_at)},
                      {"updated_at", to_string(info.updated_at)}};
  if (info.wake_at) made["wake_at"] = to_string(*info.wake_at);
  if (info.deadline) made["deadline"] = to_string(*info.deadline);
  if (!info.parent.empty()) made["parent"] = info.parent;
  return made;
}

void print_line(const saga::saga_info& info) {
  std::printf("%-12s %s  %s (%s, version %u)%s%s\n", std::string(to_string(info.state)).c_str(),
              to_string(info.updated_at).c_str(), info.id.c_str(), info.definition.c_str(), info.version,
              info.reason.empty() ? "" : ": ", info.reason.c_str());
}

void print(const saga::saga_history& history) {
  print_line(history.info);
  std::printf("  %s  started with %s\n", to_string(history.info.created_at).c_str(), history.input.dump().c_str());
  for (const auto& e : history.entries) {
    const std::string payload = e.payload.is_null() ? "" : " " + e.payload.dump();
    std::printf("  %s  %3llu  %s%s%s%s\n", to_string(e.at).c_str(), static_cast<unsigned long long>(e.seq),
                e.kind.c_str(), e.key.empty() ? "" : " ", e.key.c_str(), payload.c_str());
  }
  if (!history.output.is_null()) std::printf("  it returned %s\n", history.output.dump().c_str());
  if (!history.info.parent.empty()) std::printf("  it was called by %s\n", history.info.parent.c_str());
  if (history.info.deadline) std::printf("  its deadline is %s\n", to_string(*history.info.deadline).c_str());
  if (history.info.wake_at) std::printf("  it wakes at %s\n", to_string(*history.info.wake_at).c_str());
}

nlohmann::json json_of(const saga::saga_history& history) {
  nlohmann::json made = json_of(history.info);
  made["input"] = history.input;
  made["output"] = history.output;
  made["entries"] = nlohmann::json::array();
  for (const auto& e : history.entries) {
    made["entries"].push_back({{"seq", e.seq},
                               {"epoch", e.epoch},
                               {"kind", e.kind},
                               {"key", e.key},
                               {"step", e.step},
                               {"payload", e.payload},
                               {"at", to_string(e.at)}});
  }
  return made;
}

void print(const nlohmann::json& made) { std::printf("%s\n", made.dump(2).c_str()); }

// --------------------------------------------------------------------------------------------------------------- verbs

awaitable<void> list(saga::admin& desk, const request& r) {
  saga::saga_filter filter;
  for (const auto each : states) {
    if (to_string(each) == r.state) filter.state = each;
  }
  filter.definition = r.name;
  filter.limit = r.limit;
  if (!r.unchanged_for.empty()) filter.unchanged_for = *parse_duration(r.unchanged_for);
  const auto found = co_await desk.list(filter);
  auto all = nlohmann::json::array();
  for (const auto& info : found) {
    if (r.json) {
      all.push_back(json_of(info));
    } else {
      print_line(info);
    }
  }
  if (r.json) print(all);
}

awaitable<void> show(saga::admin& desk, const request& r) {
  const auto history = co_await desk.show(r.id);
  if (r.json) {
    print(json_of(history));
  } else {
    print(history);
  }
}

awaitable<void> export_to(saga::admin& desk, const request& r) {
  const auto history = co_await desk.export_history(r.id);
  if (r.file.empty()) {
    print(history);
    co_return;
  }
  std::ofstream out(r.file);
  out << history.dump(2) << '\n';
  out.flush();
  if (!out) throw misuse("cannot write '" + r.file + "'");
}

awaitable<void> import_from(database& db, saga::admin& desk, const request& r) {
  std::ifstream in(r.file);
  if (!in) throw misuse("cannot read '" + r.file + "'");
  auto history = nlohmann::json::parse(in, nullptr, false);
  if (history.is_discarded()) throw misuse("'" + r.file + "' is no JSON");
  (void)co_await saga::engine::open(db);  // makes the tables where there are none
  co_await desk.import_history(std::move(history));
}

/// Verbs that change one saga.
awaitable<void> decide(saga::admin& desk, const request& r) {
  saga::decision by(r.who, r.why);
  if (r.verb == "retry") co_await desk.retry_now(r.id, std::move(by));
  if (r.verb == "compensate") co_await desk.compensate(r.id, std::move(by));
  if (r.verb == "cancel") co_await desk.cancel(r.id, std::move(by));
  if (r.verb == "pause") co_await desk.pause(r.id, std::move(by));
  if (r.verb == "resume") co_await desk.resume(r.id, std::move(by));
  if (r.verb == "abandon") co_await desk.abandon(r.id, std::move(by));
  if (r.verb == "mark-undone") co_await desk.mark_undone(r.id, r.key, std::move(by));
  if (r.verb == "skip") {
    auto result = nlohmann::json::parse(r.result, nullptr, false);
    if (result.is_discarded()) throw misuse("--result is no JSON (text is written '\"so\"'): " + r.result);
    co_await desk.skip(r.id, r.key, std::move(result), std::move(by));
  }
  const auto now = co_await desk.show(r.id);
  if (r.json) {
    print(json_of(now.info));
  } else {
    print_line(now.info);
  }
}

awaitable<void> require_sagas(database& db) {
  try {
    (void)co_await db.query("select id from cofferdam_sagas limit 1");
  } catch (const storage_error& e) {
    if (e.code() != errc::invalid_statement) throw;
    throw storage_error(errc::schema_mismatch,
                        "'" + db.name() + "' holds no sagas: no saga::engine was ever opened on it");
  }
}

awaitable<void> work(const request& r) {
  database_options options;
  options.create = r.verb == "import";
  database db = co_await database::open(r.url, options);
  saga::admin desk(db);
  if (r.verb != "import") co_await require_sagas(db);
  if (r.verb == "list") {
    co_await list(desk, r);
  } else if (r.verb == "show") {
    co_await show(desk, r);
  } else if (r.verb == "export") {
    co_await export_to(desk, r);
  } else if (r.verb == "import") {
    co_await import_from(db, desk, r);
  } else {
    co_await decide(desk, r);
  }
  co_await db.close();
}

// ----------------------------------------------------------------------------------------------------------- arguments

void add_list(CLI::App& app, request& r) {
  CLI::App* verb = app.add_subcommand("list", "sagas, the most recently changed first");
  std::vector<std::string> names;
  for (const auto each : states) names.emplace_back(to_string(each));
  verb->add_option("--state", r.state, "only those in this state")->check(CLI::IsMember(names));
  verb->add_option("--name", r.name, "only those of this definition");
  verb->add_option("--unchanged-for", r.unchanged_for,
                   "only those to which nothing has happened for so long: 10min, 2h")
      ->check([](const std::string& text) {
        return parse_duration(text) ? std::string() : "'" + text + "' is no duration such as 90s, 10min, 2h";
      });
  verb->add_option("--limit", r.limit, "how many at most")->capture_default_str();
}

CLI::App* add_verb(CLI::App& app, request& r, const char* name, const char* what, const char* evidence = "--why") {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->add_option("id", r.id, "the saga")->required();
  const char* user = std::getenv("USER");
  if (user != nullptr) r.who = user;
  verb->add_option("--who", r.who, "who decides; kept in the journal")->required(r.who.empty())->capture_default_str();
  verb->add_option(evidence, r.why, "kept in the journal")->required();
  return verb;
}

void add_all(CLI::App& app, request& r) {
  app.require_subcommand(1);
  app.add_option("--database", r.url, "sqlite:PATH or postgresql://user@host/name")->required();
  app.add_flag("--json", r.json, "prints JSON");
  app.fallthrough();
  add_list(app, r);
  app.add_subcommand("show", "what a saga did, entry by entry")->add_option("id", r.id, "the saga")->required();
  add_verb(app, r, "retry", "lets a saga that is stuck, or rests between attempts, go on at once");
  CLI::App* skip = add_verb(app, r, "skip", "says that a step has happened, with this result");
  skip->add_option("key", r.key, "the step's place, as show tells: reserve#1")->required();
  skip->add_option("--result", r.result, "what the step yielded, as JSON")->required();
  CLI::App* undone = add_verb(app, r, "mark-undone", "says that a step was undone by hand", "--evidence");
  undone->add_option("key", r.key, "the step's place, as show tells: reserve#1")->required();
  add_verb(app, r, "compensate", "makes a saga go back, also one that is stuck or paused; its body is not asked");
  add_verb(app, r, "cancel", "makes a saga that runs or waits go back");
  add_verb(app, r, "pause", "lets nothing more begin until resume");
  add_verb(app, r, "resume", "lets a paused saga go on");
  add_verb(app, r, "abandon", "gives a saga up as it is; what it did stays");
  CLI::App* out =
      app.add_subcommand("export", "all of a saga as one JSON object; it stays here, and goes on unless it is paused");
  out->add_option("id", r.id, "the saga")->required();
  out->add_option("file", r.file, "where to; left out: to standard output");
  app.add_subcommand("import", "brings an exported saga into this database, where it goes on unless it was paused")
      ->add_option("file", r.file, "what export wrote")
      ->required();
  app.add_subcommand("check", "not here: comparing journals with code needs the code, see below");
  app.footer(
      "To move a saga, so that no two of it act: pause, export, import there, abandon here, resume there.\n"
      "Whatever is decided here is carried out by the workers (saga::engine) that run on the database.\n"
      "Verbs that need the code of the sagas are not in this tool. To check journals against a new build, call\n"
      "saga::engine::check() in your own program; to replay exported histories, saga::replay_histories().");
}

int report(int code, const std::string& what) {
  std::fprintf(stderr, "cofferdam-saga: %s\n", what.c_str());
  return code;
}

int run(const request& r) {
  if (r.verb == "check") {
    return report(2, "check needs the code of the sagas: call saga::engine::check() in your own program");
  }
  net::io_context context(1);
  std::exception_ptr error;
  net::co_spawn(context, work(r), [&error](const std::exception_ptr& e) { error = e; });
  context.run();
  try {
    if (error) std::rethrow_exception(error);
    return 0;
  } catch (const saga::saga_error& e) {
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
  CLI::App app("Looks at sagas, and decides what no program can.", "cofferdam-saga");
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
