// cofferdam-chaos: runs scenario files. The exit code is the verdict: 0 all expectations hold, 1 some do not, 2 misuse
// or a bad scenario.
#include <cofferdam/chaos/verdict.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace chaos = cofferdam::chaos;

namespace {

struct misuse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct request {
  std::vector<std::string> files;
  std::optional<std::uint64_t> seed;
  std::string variant, format = "text", out, directory = "examples/chaos";
  bool real = false;
};

void keep_only(chaos::scenario& s, const std::string& variant) {
  if (variant.empty()) return;
  std::erase_if(s.variants, [&](const auto& v) { return v.first != variant; });
  if (s.variants.empty()) throw misuse("the scenario has no variant " + variant);
  std::erase_if(s.expectations, [&](const chaos::expectation& e) {
    return e.what == chaos::expectation::kind::compare || (!e.variant.empty() && e.variant != variant);
  });
}

bool run(const request& r, const std::string& file) {
  auto scenario = chaos::load_scenario(file);
  if (r.seed) scenario.seeds = {*r.seed};
  if (r.real && scenario.kind != chaos::scenario_kind::outbox) throw misuse("only outbox scenarios run in real time");
  scenario.real = scenario.real || r.real;
  keep_only(scenario, r.variant);
  const auto results = chaos::run_scenario(scenario);
  const auto verdicts = chaos::judge(scenario, results);
  const std::string report = r.format == "json"    ? chaos::report_json(scenario, results, verdicts)
                             : r.format == "junit" ? chaos::report_junit(scenario, verdicts)
                                                   : chaos::report_text(scenario, results, verdicts, file);
  if (r.out.empty()) {
    std::cout << report << "\n";
  } else {
    std::filesystem::create_directories(r.out);
    const std::string extension = r.format == "junit" ? ".xml" : r.format == "json" ? ".json" : ".txt";
    const auto path = std::filesystem::path(r.out) / (std::filesystem::path(file).stem().string() + extension);
    if (!(std::ofstream(path) << report)) throw misuse("cannot write " + path.string());
  }
  return std::ranges::all_of(verdicts, &chaos::verdict_line::passed);
}

std::vector<std::string> scenarios_in(const std::string& directory) {
  std::vector<std::string> files;
  if (!std::filesystem::is_directory(directory)) throw misuse("no directory " + directory);
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path().string());
  }
  std::ranges::sort(files);
  if (files.empty()) throw misuse("no scenarios in " + directory);
  return files;
}

void add_all(CLI::App& app, request& r) {
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--seed", r.seed, "instead of the scenario's");
  app.add_option("--variant", r.variant, "only this one");
  app.add_option("--format", r.format, "of the report")
      ->check(CLI::IsMember({"text", "json", "junit"}))
      ->capture_default_str();
  app.add_option("--out", r.out, "a directory for the reports; left out: standard output");
  app.add_flag("--real", r.real, "in real time, against a nats-server of its own");
  app.add_subcommand("run", "runs scenarios")->add_option("files", r.files)->required();
  app.add_subcommand("check", "only reads the files")->add_option("files", r.files)->required();
  app.add_subcommand("demo", "runs every scenario of a directory")
      ->add_option("directory", r.directory)
      ->capture_default_str();
  app.footer("Exit code: 0 all expectations hold, 1 some do not, 2 misuse or a bad scenario.");
}

int carry_out(const std::string& verb, request& r) {
  if (verb == "demo") r.files = scenarios_in(r.directory);
  bool all_hold = true;
  for (const auto& file : r.files) {
    if (verb == "check") {
      (void)chaos::load_scenario(file);
      std::cout << file << ": fine\n";
    } else {
      all_hold = run(r, file) && all_hold;
    }
  }
  if (verb == "demo") std::cout << (all_hold ? "All expectations hold.\n" : "Some expectations do not hold.\n");
  return all_hold ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  request r;
  CLI::App app("Runs scenarios: policies, outboxes and sagas under faults.", "cofferdam-chaos");
  add_all(app, r);
  try {
    app.parse(argc, argv);
    return carry_out(app.get_subcommands().front()->get_name(), r);
  } catch (const CLI::Success& e) {  // --help
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    (void)app.exit(e);
  } catch (const std::exception& e) {
    std::cerr << "cofferdam-chaos: " << e.what() << "\n";
  }
  return 2;
}
