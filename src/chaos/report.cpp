#include <cofferdam/chaos/verdict.hpp>
#include <cofferdam/core/units.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

template <class... Args> std::string format(const char* pattern, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::optional<double> goodput(const scenario& s, const run_result& run, duration from, duration to,
                              const char* metric) {
  expectation e;
  e.subject = metric;
  e.from = from;
  e.to = to;
  return measure(s, run, e);
}

std::string percent(std::optional<double> share) {
  return share ? format("%5.1f %%", *share * 100) : std::string("   -   ");
}

/// Eight heights of block; the fault's time is underlined below it.
std::string sparkline(const scenario& s, const run_result& run, std::size_t columns) {
  static constexpr const char* blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string line;
  for (std::size_t i = 0; i < columns; ++i) {
    const auto from = s.length / static_cast<std::int64_t>(columns) * static_cast<std::int64_t>(i);
    const auto share = goodput(s, run, from, from + s.length / static_cast<std::int64_t>(columns), "goodput");
    line += share ? blocks[std::min<std::size_t>(static_cast<std::size_t>(*share * 7.999), 7)] : " ";
  }
  return line;
}

std::string fault_line(const scenario& s, std::size_t columns) {
  std::string line(columns, ' ');
  for (const auto& fault : s.faults) {
    const auto column = [&](duration at) {
      return static_cast<std::size_t>(at * static_cast<std::int64_t>(columns) / s.length);
    };
    for (std::size_t i = column(fault.at);
         i < std::max(column(fault.at + fault.length), column(fault.at) + 1) && i < columns; ++i) {
      line[i] = '~';
    }
  }
  return line;
}

const run_result* first_run(const std::vector<run_result>& results, const std::string& variant) {
  const auto found = std::ranges::find(results, variant, &run_result::variant);
  return found == results.end() ? nullptr : &*found;
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
  constexpr std::size_t columns = 60;
  std::string text = s.title + "\n";
  if (!s.description.empty()) text += s.description + "\n";
  text += format("%s simulated, %zu seed%s from %llu\n\n", to_string(s.length).c_str(), s.seeds.size(),
                 s.seeds.size() == 1 ? "" : "s", static_cast<unsigned long long>(s.seeds.front()));

  std::size_t width = 8;
  for (const auto& [name, v] : s.variants) width = std::max(width, name.size());
  const duration begin = s.faults.empty() ? s.length / 2 : s.faults.front().at;
  const duration end = s.faults.empty() ? s.length / 2 : s.faults.front().at + s.faults.front().length;
  text += format("%-*s  before    during    after     requests/call in fault   goodput over time\n",
                 static_cast<int>(width), "variant");
  for (const auto& [name, v] : s.variants) {
    const auto* run = first_run(results, name);
    if (run == nullptr) continue;
    const auto amplification = goodput(s, *run, begin, end, "amplification");
    text += format("%-*s  %s   %s   %s   %22s   ", static_cast<int>(width), name.c_str(),
                   percent(goodput(s, *run, s.warmup, begin, "goodput")).c_str(),
                   percent(goodput(s, *run, begin, end, "goodput")).c_str(),
                   percent(goodput(s, *run, end, s.length, "goodput")).c_str(),
                   amplification ? format("%.2f", *amplification).c_str() : "-");
    text += sparkline(s, *run, columns) + "\n";
  }
  if (!s.faults.empty()) text += std::string(width + 61, ' ') + fault_line(s, columns) + "  fault\n";
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
    r["timeline"] = nlohmann::ordered_json::array();
    for (duration at{}; at < s.length; at += s.timeline) {
      nlohmann::ordered_json step;
      step["at_s"] = static_cast<double>(at.count()) * 1e-9;
      for (const char* metric : {"goodput", "availability", "amplification", "p99"}) {
        const auto value = goodput(s, run, at, at + s.timeline, metric);
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
