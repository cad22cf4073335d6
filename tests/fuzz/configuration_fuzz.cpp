// Documents that nobody would write: valid ones, mutated again and again. Each is refused with a path for every
// mistake, or it works: it is written and read back as the same, and its pipelines run a call.
//
//     cofferdam_configuration_fuzz [SEED [COUNT]]    the document at work is in configuration_fuzz.json, where it was
//     built
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/configuration.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace cofferdam;
using nlohmann::json;

namespace {

void require(bool holds, const char* what, const std::string& seen = "") {
  if (!holds) throw std::logic_error(std::string(what) + (seen.empty() ? "" : ": " + seen));
}

// -------------------------------------------------------------------------------------------------- what must hold

/// The configuration, or nothing when it was refused as it should be.
std::optional<configuration> made(const std::function<configuration()>& make) {
  try {
    return make();
  } catch (const configuration_error& e) {
    require(!e.problems().empty(), "refused without a reason");
    for (const auto& problem : e.problems()) {
      const bool is_no_json = problem.starts_with("is not JSON: ") || problem == "is empty";
      require(problem.starts_with('/') || is_no_json, "a problem without a path", problem);
    }
    return std::nullopt;
  }
}

void check_numbers(const json& written) {
  for (const auto& [key, value] : written.items()) {
    if (value.is_structured()) check_numbers(value);
    // No field may have more, see the schema.
    const double least = key == "priority_below" ? INT32_MIN : 0, most = key == "priority_below" ? INT32_MAX : 1e9;
    if (value.is_number()) require(value.get<double>() >= least && value.get<double>() <= most, "out of range", key);
  }
}

awaitable<int> one() { co_return 1; }

awaitable<void> call_each(const configuration& config) {
  for (const auto& name : config.names()) {
    auto pipeline = config.at(name);
    const auto ended = co_await pipeline.try_run(one);
    require(!ended.has_value() || *ended == 1, "a call gave another value", name);
  }
}

/// Whether it was accepted.
bool check(const std::function<configuration()>& make) {
  const auto config = made(make);
  if (!config) return false;
  const json written = config->to_json();
  check_numbers(written);
  require(configuration(written).to_json() == written, "reads back as another one", written.dump());
  net::io_context context(1);
  virtual_time time(context);
  time.run(call_each, std::cref(*config));
  return true;
}

/// A reload is all or nothing.
void check_reload(const json& present, const json& next) {
  configuration config(present);
  const json before = config.to_json();
  const bool accepted = made([&] {
                          config.reload(next);
                          return std::move(config);
                        }).has_value();
  if (!accepted) require(config.to_json() == before, "a refused reload changed something");
}

// --------------------------------------------------------------------------------------------------- valid documents

/// Every field of a schema's object at its default. A budget has none, nor has a backoff, of which the long form is
/// meant, nor have partitions, of which there is one.
json defaults_of(const json& schema) {
  json object = json::object();
  for (const auto& [key, field] : schema["properties"].items()) {
    if (field.contains("default")) {
      object[key] = field["default"];
    } else if (key == "budget") {
      object[key] = "shared";
    } else if (field.contains("additionalProperties")) {
      object[key]["gold"] = defaults_of(field["additionalProperties"]);
    } else {
      object[key] = defaults_of(field["anyOf"][1]);
    }
  }
  return object;
}

/// One pipeline of each policy alone, one of all of them.
json every_policy() {
  json document = {{"version", 1}, {"budgets", {{"shared", defaults_of(budget_schema())}}}};
  json& pipelines = document["pipelines"];
  const json schemas = policy_schema();
  for (const json& schema : schemas["oneOf"]) {
    const auto kind = schema["properties"].begin();
    const bool is_timeout = kind.key() == "timeout";
    const json options = defaults_of(is_timeout ? kind.value()["anyOf"][1] : kind.value());
    const json policy = {{kind.key(), options}};
    pipelines[kind.key()] = json::array({policy});
    if (kind.key() == "priority_shedder") {  // goes by the load of what is below it
      pipelines[kind.key()].push_back({{"bulkhead", json::object()}});
      pipelines["all"].insert(pipelines["all"].begin(), policy);
    } else if (!is_timeout) {
      pipelines["all"].push_back(policy);
    }
  }
  return document;
}

// --------------------------------------------------------------------------------------------------------- mutation

class mutator {
 public:
  explicit mutator(std::uint64_t seed) : random_(seed) { collect_words(configuration::schema()); }

  std::size_t below(std::size_t n) { return random_() % n; }
  /// The place of some element, or the end where there is none.
  std::ptrdiff_t at(const json& node) { return node.empty() ? 0 : static_cast<std::ptrdiff_t>(below(node.size())); }

  void change(json& document) {
    std::vector<json*> nodes;
    collect(document, nodes);
    json& node = *nodes[below(nodes.size())];
    json& other = *nodes[below(nodes.size())];
    switch (below(8)) {
      case 0:
      case 1:
        node = odd_value();
        break;
      case 2:
        node = json(other);
        break;
      case 3:
        if (node.is_structured() && !node.empty()) node.erase(std::next(node.begin(), at(node)));
        break;
      case 4:
        if (node.is_array()) node.insert(std::next(node.begin(), at(node)), json(other));
        if (node.is_object()) node[odd_name()] = json(other);
        break;
      case 5:
        node = nested(json(node), below(4) == 0 ? 1000 : 1 + below(3));
        break;
      default:
        nudge(node);
    }
  }

  /// Damage that only a text can have.
  std::string damaged(std::string text) {
    const std::size_t from = below(text.size()), length = 1 + below(std::min<std::size_t>(text.size() - from, 40));
    switch (below(5)) {
      case 0:
        return text.substr(0, from);
      case 1:
        return text.insert(from, text.substr(from, length));
      case 2:
        return text.erase(from, length);
      case 3:
        text[from] = static_cast<char>(below(256));
        return text;
      default:
        // A name twice in one object: the last one counts.
        return text.insert(1, R"("version":2,"pipelines":[],)");
    }
  }

 private:
  static void collect(json& node, std::vector<json*>& nodes) {
    nodes.push_back(&node);
    if (!node.is_structured()) return;
    for (auto& inner : node) collect(inner, nodes);
  }
  /// Every word that some field knows.
  void collect_words(const json& schema) {
    if (schema.is_string()) words_.push_back(schema);
    if (!schema.is_structured()) return;
    for (const auto& [key, inner] : schema.items()) {
      if (schema.is_object()) words_.push_back(key);
      collect_words(inner);
    }
  }
  std::string odd_name() { return below(2) == 0 ? words_[below(words_.size())] : odd_text(); }

  std::string odd_text() {
    static const std::vector<std::string> texts = {
        "",
        " ",
        "shared",
        "0s",
        "1ns",
        "-5ms",
        "9223372036s",
        "2562047h",
        "1e3s",
        "nan",
        "infs",
        "..",
        "1s..",
        "50ms..1s",
        "5min",
        "forever",
        "\xC3\xA9",
        "\xF0\x9F\x92\xA5",
        "a/b~c",
        "\n\"\\",
        std::string(1, '\0'),
    };
    return below(40) == 0 ? std::string(20'000, 'x') : texts[below(texts.size())];
  }
  json odd_number() {
    using limits = std::numeric_limits<double>;
    static const std::vector<json> numbers = {
        0,
        1,
        2,
        -1,
        1'000'000'000,
        1'000'000'001,
        INT64_MIN,
        INT64_MAX,
        UINT64_MAX,
        UINT32_MAX,
        0.5,
        1.0,
        -0.0,
        1e18,
        limits::max(),
        limits::denorm_min(),
        limits::infinity(),
        limits::quiet_NaN(),
    };
    return numbers[below(numbers.size())];
  }
  json odd_value() {
    switch (below(6)) {
      case 0:
        return nullptr;
      case 1:
        return below(2) == 0;
      case 2:
        return below(2) == 0 ? json::object() : json::array();
      case 3:
        return odd_number();
      case 4:
        return words_[below(words_.size())];
      default:
        return odd_text();
    }
  }
  json nested(json node, std::size_t depth) {
    const bool in_objects = below(2) == 0;
    for (std::size_t i = 0; i < depth; ++i) {
      json outer = in_objects ? json::object() : json::array();
      if (in_objects)
        outer["retry"] = std::move(node);
      else
        outer.push_back(std::move(node));
      node = std::move(outer);
    }
    return node;
  }
  /// A little beside what it was.
  void nudge(json& node) {
    static const std::vector<double> factors = {-1, 0.5, 0.999, 1.001, 2, 10, 1000, 1e9};
    if (node.is_number() && below(2) == 0) {
      node = odd_number();
    } else if (node.is_number_integer()) {
      node = node.get<std::int64_t>() + static_cast<std::int64_t>(below(7)) - 3;
    } else if (node.is_number()) {
      node = node.get<double>() * factors[below(factors.size())];
    } else if (node.is_boolean()) {
      node = !node.get<bool>();
    } else if (node.is_string()) {
      auto& text = node.get_ref<std::string&>();
      const std::string digits = "0123456789.";
      if (!text.empty()) text.insert(below(text.size()), 1, digits[below(digits.size())]);
    }
  }

  random_source random_;
  std::vector<std::string> words_;
};

/// A document with one of the pipelines, so that a change hits something.
json one_of(const json& document, mutator& choose) {
  json chosen = document;
  const auto pipeline = std::next(document["pipelines"].begin(), choose.at(document["pipelines"]));
  chosen["pipelines"] = {{pipeline.key(), pipeline.value()}};
  return chosen;
}

/// How many documents were accepted.
std::uint64_t run(std::uint64_t seed, std::uint64_t count) {
  const json every = every_policy();
  const std::string file = COFFERDAM_BINARY_DIR "/configuration_fuzz.json";
  mutator mutate(seed);
  std::uint64_t accepted = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const json valid = one_of(every, mutate);
    json document = valid;
    for (std::size_t changes = mutate.below(5); changes > 0; --changes) mutate.change(document);
    // A program may make texts that are not UTF-8, and numbers that JSON lacks; a file cannot hold them.
    std::string text = document.dump(-1, ' ', false, json::error_handler_t::replace);
    const bool as_text = mutate.below(4) == 0;
    if (as_text && mutate.below(2) == 0) text = mutate.damaged(std::move(text));
    std::ofstream(file) << text;
    accepted += check([&] { return as_text ? configuration::load(file) : configuration(document); });
    if (!as_text) check_reload(valid, document);
  }
  return accepted;
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const std::uint64_t count = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2000;
  try {
    const std::uint64_t accepted = run(seed, count);
    std::printf("%llu documents, %llu accepted\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(accepted));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed), e.what());
    return EXIT_FAILURE;
  }
}
