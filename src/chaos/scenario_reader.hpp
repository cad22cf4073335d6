// What the readers of all kinds of scenarios share.
#pragma once

#include <cofferdam/chaos/scenario.hpp>
#include <cofferdam/resilience/detail/json_reader.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos::reading {

using reader = cofferdam::detail::json_reader;
constexpr double any = 1e308;
constexpr duration longest_run = std::chrono::hours(24);

template <class Spec> std::vector<std::string> names_in(const std::vector<Spec>& list) {
  std::vector<std::string> names;
  names.reserve(list.size());
  for (const auto& spec : list) names.push_back(spec.name);
  return names;
}
[[nodiscard]] std::vector<std::string> names_of_variants(const scenario& s);

template <class Spec> void add_named(std::vector<Spec>& list, Spec spec, const reader& r) {
  if (std::ranges::find(list, spec.name, &Spec::name) != list.end()) {
    r.problem("the name \"" + spec.name + "\" is taken");
  }
  list.push_back(std::move(spec));
}

template <class Read> void read_list(reader& from, const char* key, bool needed, Read read) {
  const auto list = needed ? from.require(key) : from.find(key);
  if (!list) return;
  const auto items = list->items();
  if (needed && items.empty() && list->value().is_array()) list->problem("must not be empty");
  for (const auto& item : items) read(item);
}

/// `workers`, `latency` and `queue`.
void read_work(reader& r, service_spec& spec);
[[nodiscard]] latency_spec read_latency(reader r);
void read_order(const std::optional<reader>& r, queue_order& order);
void read_limit(const std::optional<reader>& r, std::optional<std::size_t>& limit);
/// `arrivals`, `rate`, `from` and `to` of a load or a producer.
template <class Load> void read_arrivals(reader& r, const scenario& s, Load& load);
void check_arrivals(const reader& r, const scenario& s, double rate, duration from, duration to);

template <class Load> void read_arrivals(reader& r, const scenario& s, Load& load) {
  load.to = s.length;
  if (const auto arrivals = r.find("arrivals")) {
    load.poisson = arrivals->as_word({"poisson", "constant"}).value_or(0) == 0;
  }
  if (const auto rate = r.require("rate")) load.rate = rate->as_rate().value_or(1);
  r.read("from", load.from);
  r.read("to", load.to);
  check_arrivals(r, s, load.rate, load.from, load.to);
}

/// @param kinds  those that this kind of scenario knows.
void read_faults(reader& root, scenario& s, const std::vector<std::string>& kinds);
/// Where the n-th fault stands in the document.
[[nodiscard]] reader fault_at(const reader& root, std::size_t index);

void read_calls(reader& root, scenario& s);
void read_outbox(reader& root, scenario& s);
void read_saga(reader& root, scenario& s);
void read_expectations(reader& root, scenario& s);

/// Variants that are merge patches (RFC 7396) of what stands under `keys`. `read` reads a whole document and is given
/// it once as it stands, and once as each variant changes it; what is wrong with the document itself is told once.
template <class Read> void read_patches(reader& root, scenario& s, const std::vector<std::string>& keys, Read read) {
  variant_spec unchanged;
  std::vector<std::string> own;
  read(reader(root.value(), "", own), unchanged);
  root.problems()->insert(root.problems()->end(), own.begin(), own.end());
  for (const auto& key : keys) (void)root.find(key);
  const auto variants = root.require("variants");
  if (!variants) return;
  for (const auto& [name, changes] : variants->members()) {
    auto& [its_name, spec] = s.variants.emplace_back(name, variant_spec());
    if (!changes.is_object()) continue;
    nlohmann::json changed = root.value();
    reader known(changes);
    for (const auto& key : keys) {
      if (known.find(key)) changed[key].merge_patch(changes.value()[key]);
    }
    known.finish();
    std::vector<std::string> problems;
    read(reader(changed, "", problems), spec);
    for (const auto& problem : problems) {
      if (std::ranges::find(own, problem) == own.end()) root.problems()->push_back(changes.path() + problem);
    }
  }
  if (s.variants.empty()) variants->problem("needs at least one variant");
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos::reading
