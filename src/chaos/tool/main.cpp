// cofferdam-chaos: runs scenario files. The exit code is the verdict: 0 all expectations hold, 1 some do not, 2 misuse
// or a bad scenario.
#include <cofferdam/chaos/verdict.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

namespace chaos = cofferdam::chaos;

namespace {

constexpr const char* usage =
    "usage: cofferdam-chaos run FILE... [--seed N] [--variant NAME] [--format text|json|junit] [--out DIRECTORY]\n"
    "                           [--real]   in real time, against a nats-server of its own\n"
    "       cofferdam-chaos check FILE...      only reads the files\n"
    "       cofferdam-chaos demo [DIRECTORY]   runs every scenario of a directory (default examples/chaos)\n";

struct misuse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct request {
  std::vector<std::string> files;
  std::optional<std::uint64_t> seed;
  std::string variant, format = "text", out;
  bool real = false;
};

request parse(const std::vector<std::string>& words) {
  request r;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto value = [&]() -> const std::string& {
      if (i + 1 == words.size()) throw misuse(words[i] + " needs a value");
      return words[++i];
    };
    if (words[i] == "--seed") {
      const std::string& text = value();
      std::uint64_t seed = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
      if (error != std::errc() || end != text.data() + text.size())
        throw misuse("--seed needs a whole number, not " + text);
      r.seed = seed;
    } else if (words[i] == "--variant") {
      r.variant = value();
    } else if (words[i] == "--format") {
      r.format = value();
      if (r.format != "text" && r.format != "json" && r.format != "junit") throw misuse("unknown format " + r.format);
    } else if (words[i] == "--real") {
      r.real = true;
    } else if (words[i] == "--out") {
      r.out = value();
    } else if (words[i].starts_with("-")) {
      throw misuse("unknown option " + words[i]);
    } else {
      r.files.push_back(words[i]);
    }
  }
  return r;
}

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

int main_or_throw(std::vector<std::string> words) {
  if (words.empty()) throw misuse("what shall I do?");
  const std::string command = words.front();
  if (command == "--help" || command == "help") {
    std::cout << usage;
    return 0;
  }
  words.erase(words.begin());
  request r = parse(words);
  if (command == "demo") {
    const std::string directory = r.files.empty() ? "examples/chaos" : r.files.front();
    r.files = scenarios_in(directory);
  } else if (command != "run" && command != "check") {
    throw misuse("unknown command " + command);
  }
  if (r.files.empty()) throw misuse("which scenario?");
  bool all_hold = true;
  for (const auto& file : r.files) {
    if (command == "check") {
      (void)chaos::load_scenario(file);
      std::cout << file << ": fine\n";
      continue;
    }
    all_hold = run(r, file) && all_hold;
  }
  if (command == "demo") std::cout << (all_hold ? "All expectations hold.\n" : "Some expectations do not hold.\n");
  return all_hold ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return main_or_throw(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const misuse& e) {
    std::cerr << "cofferdam-chaos: " << e.what() << "\n" << usage;
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
  }
  return 2;
}
