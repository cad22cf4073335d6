#include <cofferdam/chaos/verdict.hpp>
#include <cofferdam/core/units.hpp>

#include "metrics.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <map>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

constexpr std::int64_t columns = 60;  // of what is drawn over time

template <class... Args> std::string format(const char* pattern, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::optional<double> metric_of(const scenario& s, const run_result& run, duration from, duration to,
                                const std::string& metric) {
  expectation e;
  e.subject = metric;
  e.from = from;
  e.to = to;
  return measure(s, run, e);
}

std::string percent(std::optional<double> share) {
  return share ? format("%5.1f %%", *share * 100) : std::string("   -   ");
}

/// Eight heights of block for values in [0, 1].
std::string sparkline(const std::vector<std::optional<double>>& values) {
  static constexpr const char* blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string line;
  for (const auto& value : values) {
    line += value ? blocks[std::min<std::size_t>(static_cast<std::size_t>(*value * 7.999), 7)] : " ";
  }
  return line;
}

/// The metric in each of so many equal parts of the run.
std::vector<std::optional<double>> over_time(const scenario& s, const run_result& run, const char* metric) {
  std::vector<std::optional<double>> values;
  for (std::int64_t i = 0; i < columns; ++i) {
    const duration part = s.length / columns;
    values.push_back(metric_of(s, run, part * i, part * (i + 1), metric));
  }
  return values;
}

std::string fault_line(const scenario& s) {
  std::string line(columns, ' ');
  for (const auto& fault : s.faults) {
    const auto column = [&](duration at) { return static_cast<std::size_t>(at * columns / s.length); };
    for (std::size_t i = column(fault.at);
         i < std::max(column(fault.at + fault.length), column(fault.at) + 1) && i < line.size(); ++i) {
      line[i] = '~';
    }
  }
  return line;
}

const run_result* first_run(const std::vector<run_result>& results, const std::string& variant) {
  const auto found = std::ranges::find(results, variant, &run_result::variant);
  return found == results.end() ? nullptr : &*found;
}

std::size_t width_of_names(const scenario& s) {
  std::size_t width = 8;
  for (const auto& [name, v] : s.variants) width = std::max(width, name.size());
  return width;
}

std::string table_of_calls(const scenario& s, const std::vector<run_result>& results) {
  const std::size_t width = width_of_names(s);
  std::string text;
  const duration begin = s.faults.empty() ? s.length / 2 : s.faults.front().at;
  const duration end = s.faults.empty() ? s.length / 2 : s.faults.front().at + s.faults.front().length;
  text += format("%-*s  before    during    after     requests/call in fault   goodput over time\n",
                 static_cast<int>(width), "variant");
  for (const auto& [name, v] : s.variants) {
    const auto* run = first_run(results, name);
    if (run == nullptr) continue;
    const auto amplification = metric_of(s, *run, begin, end, "amplification");
    text += format("%-*s  %s   %s   %s   %22s   ", static_cast<int>(width), name.c_str(),
                   percent(metric_of(s, *run, s.warmup, begin, "goodput")).c_str(),
                   percent(metric_of(s, *run, begin, end, "goodput")).c_str(),
                   percent(metric_of(s, *run, end, s.length, "goodput")).c_str(),
                   amplification ? format("%.2f", *amplification).c_str() : "-");
    text += sparkline(over_time(s, *run, "goodput")) + "\n";
  }
  if (!s.faults.empty()) text += std::string(width + 61, ' ') + fault_line(s) + "  fault\n";
  return text;
}

/// A line for each variant, a column for each metric, and what is drawn beside it.
std::string table_of(const scenario& s, const std::vector<run_result>& results, const std::vector<std::string>& metrics,
                     const std::map<std::string, std::string>& drawings) {
  const std::size_t width = width_of_names(s);
  std::string text = format("%-*s", static_cast<int>(width), "variant");
  for (const auto& metric : metrics) text += "  " + metric;
  text += "\n";
  for (const auto& [name, v] : s.variants) {
    const auto* run = first_run(results, name);
    if (run == nullptr) continue;
    text += format("%-*s", static_cast<int>(width), name.c_str());
    for (const auto& metric : metrics) {
      const auto value = metric_of(s, *run, s.warmup, s.length, metric);
      text += format("  %*s", static_cast<int>(metric.size()), show_metric(metric, value).c_str());
    }
    if (const auto drawing = drawings.find(name); drawing != drawings.end()) text += "  " + drawing->second;
    text += "\n";
  }
  return text;
}

std::string table_of_messages(const scenario& s, const std::vector<run_result>& results) {
  const std::vector<std::string> metrics{"goodput",  "lost",   "duplicates", "reordered",
                                         "repeated", "parked", "backlog",    "in_memory"};
  std::map<std::string, std::vector<std::optional<double>>> waiting;
  double most = 1;
  for (const auto& [name, v] : s.variants) {
    const auto* run = first_run(results, name);
    if (run == nullptr) continue;
    waiting[name] = over_time(s, *run, "waiting");
    for (const auto& value : waiting[name]) most = std::max(most, value.value_or(0));
  }
  std::map<std::string, std::string> drawings;
  for (auto& [name, values] : waiting) {
    for (auto& value : values) value = value.value_or(0) / most;
    drawings[name] = sparkline(values);
  }
  std::size_t indent = width_of_names(s);
  for (const auto& metric : metrics) indent += metric.size() + 2;
  std::string text = table_of(s, results, metrics, drawings);
  text.insert(text.find('\n'), "  orders without effect over time, at most " + show_metric("waiting", most));
  if (!s.faults.empty()) text += std::string(indent + 2, ' ') + fault_line(s) + "  fault\n";
  return text;
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        // XML 1.0 has no other control characters, not even escaped ones.
        result += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? '?' : c;
    }
  }
  return result;
}

}  // namespace

std::string report_text(const scenario& s, const std::vector<run_result>& results,
                        const std::vector<verdict_line>& verdicts, const std::string& file) {
  std::string text = s.title + "\n";
  if (!s.description.empty()) text += s.description + "\n";
  text += format("%s %s, %zu seed%s from %llu\n\n", to_string(s.length).c_str(), s.real ? "in real time" : "simulated",
                 s.seeds.size(), s.seeds.size() == 1 ? "" : "s", static_cast<unsigned long long>(s.seeds.front()));

  switch (s.kind) {
    case scenario_kind::calls:
      text += table_of_calls(s, results);
      break;
    case scenario_kind::outbox:
      text += table_of_messages(s, results);
      break;
    case scenario_kind::saga:
      text += table_of(
          s, results,
          {"crash_points", "completed", "compensated", "half_done", "duplicates", "money", "resume_time", "end_time"},
          {});
      break;
  }
  text += "\n";

  std::size_t failed = 0;
  for (const auto& v : verdicts) {
    text += (v.passed ? "PASS  " : "FAIL  ") + (v.variant.empty() ? "" : v.variant + ": ") + v.text + ": " +
            v.observed + "\n";
    if (v.passed) continue;
    ++failed;
    if (v.failing_seed)
      text += format("      again: cofferdam-chaos run %s --seed %llu\n", file.c_str(),
                     static_cast<unsigned long long>(*v.failing_seed));
  }
  text += format("%zu of %zu expectations hold\n", verdicts.size() - failed, verdicts.size());
  return text;
}

std::string report_json(const scenario& s, const std::vector<run_result>& results,
                        const std::vector<verdict_line>& verdicts) {
  nlohmann::ordered_json root;
  root["title"] = s.title;
  root["seeds"] = s.seeds;
  root["runs"] = nlohmann::ordered_json::array();
  const std::vector<const char*> metrics = s.kind == scenario_kind::calls
                                               ? std::vector{"goodput", "availability", "amplification", "p99"}
                                               : std::vector{"goodput", "backlog", "waiting", "in_memory"};
  for (const auto& run : results) {
    nlohmann::ordered_json r;
    r["variant"] = run.variant;
    r["seed"] = run.seed;
    r["offered"] = run.offered;
    r["trace"] = format("%016llx", static_cast<unsigned long long>(run.trace));
    for (const auto& [name, event] : run.events) {
      r["events"][name] = {{"count", event.count},
                           {"first_s", static_cast<double>(event.first.count()) * 1e-9},
                           {"last_s", static_cast<double>(event.last.count()) * 1e-9}};
    }
    const auto ended = [&](call_ending how) { return std::ranges::count(run.calls, how, &call_record::ending); };
    const auto injected = std::ranges::count(run.calls, true, &call_record::injected);
    r["calls"] = {{"ok", ended(call_ending::ok)},
                  {"degraded", ended(call_ending::degraded)},
                  {"rejected", ended(call_ending::rejected)},
                  {"failed", ended(call_ending::failed) - injected},
                  {"failed_by_injection", injected}};
    r["violations"] = run.violations;
    for (const auto& metric : known_metrics(s.kind)) {
      if (metric == "recovery_time" || metric == "drain_time") continue;  // of a fault
      const auto value = metric_of(s, run, s.warmup, s.length, metric);
      r["metrics"][metric] = value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
    }
    if (s.kind == scenario_kind::saga) {
      root["runs"].push_back(std::move(r));
      continue;
    }
    r["timeline"] = nlohmann::ordered_json::array();
    for (duration at{}; at < s.length; at += s.timeline) {
      nlohmann::ordered_json step;
      step["at_s"] = static_cast<double>(at.count()) * 1e-9;
      for (const char* metric : metrics) {
        const auto value = metric_of(s, run, at, at + s.timeline, metric);
        step[metric] = value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
      }
      r["timeline"].push_back(std::move(step));
    }
    root["runs"].push_back(std::move(r));
  }
  root["expectations"] = nlohmann::ordered_json::array();
  for (const auto& v : verdicts) {
    nlohmann::ordered_json line{
        {"passed", v.passed}, {"variant", v.variant}, {"expected", v.text}, {"observed", v.observed}};
    if (v.failing_seed) line["failing_seed"] = *v.failing_seed;
    root["expectations"].push_back(std::move(line));
  }
  return root.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string report_junit(const scenario& s, const std::vector<verdict_line>& verdicts) {
  const auto failures = std::ranges::count(verdicts, false, &verdict_line::passed);
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  text += "<testsuite name=\"" + escaped(s.title) + "\" tests=\"" + std::to_string(verdicts.size()) + "\" failures=\"" +
          std::to_string(failures) + "\">\n";
  for (const auto& v : verdicts) {
    text += "  <testcase classname=\"" + escaped(v.variant) + "\" name=\"" + escaped(v.text) + "\"";
    text += v.passed ? "/>\n" : "><failure message=\"" + escaped(v.observed) + "\"/></testcase>\n";
  }
  return text + "</testsuite>\n";
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
