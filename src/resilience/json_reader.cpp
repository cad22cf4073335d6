#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/json_reader.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

/// Levenshtein's distance (1966).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string in_quotes(std::string_view text) { return "\"" + std::string(text) + "\""; }

}  // namespace

std::string nearest_hint(std::string_view name, const std::vector<std::string>& candidates) {
  std::size_t best = std::max<std::size_t>(name.size() / 2, 2) + 1;
  std::string_view nearest;
  for (const auto& candidate : candidates) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest.empty() ? "" : "; did you mean " + in_quotes(nearest) + "?";
}

nlohmann::json read_json_file(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (file) text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (!file) throw std::runtime_error("cannot be read: is it a file, and may this process read it?");
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) throw std::runtime_error("is empty");
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {  // a number beyond any double is no parse_error
    throw std::runtime_error(std::string("is not JSON: ") + e.what());
  }
}

bool json_reader::is_object() const {
  if (value_->is_object()) return true;
  problem("expected an object");
  return false;
}

bool json_reader::is_array() const {
  if (value_->is_array()) return true;
  problem("expected an array");
  return false;
}

std::optional<json_reader> json_reader::find(std::string_view key) {
  asked_.emplace_back(key);
  if (!value_->is_object()) return std::nullopt;
  const auto found = value_->find(std::string(key));
  if (found == value_->end()) return std::nullopt;
  return json_reader(*found, path_ + "/" + std::string(key), *problems_);
}

std::optional<json_reader> json_reader::require(std::string_view key) {
  auto found = find(key);
  if (!found && value_->is_object()) problem("lacks " + in_quotes(key));
  return found;
}

std::vector<json_reader> json_reader::items() const {
  std::vector<json_reader> result;
  if (!is_array()) return result;
  for (std::size_t i = 0; i < value_->size(); ++i) {
    result.emplace_back((*value_)[i], path_ + "/" + std::to_string(i), *problems_);
  }
  return result;
}

std::vector<std::pair<std::string, json_reader>> json_reader::members() const {
  std::vector<std::pair<std::string, json_reader>> result;
  if (!is_object()) return result;
  for (const auto& [key, member] : value_->items()) {
    result.emplace_back(key, json_reader(member, path_ + "/" + key, *problems_));
  }
  return result;
}

void json_reader::finish() const {
  if (!value_->is_object()) return;
  for (const auto& [key, member] : value_->items()) {
    if (std::ranges::find(asked_, key) != asked_.end()) continue;
    problems_->push_back(path_ + "/" + key + ": unknown key" + nearest_hint(key, asked_));
  }
}

std::optional<std::string> json_reader::as_string() const {
  if (value_->is_string()) return value_->get<std::string>();
  problem("expected a string");
  return std::nullopt;
}

std::optional<duration> json_reader::as_duration(duration least) const {
  const auto parsed = value_->is_string() ? parse_duration(value_->get_ref<const std::string&>()) : std::nullopt;
  if (!parsed) {
    problem("expected a duration such as \"500ms\" (units: ns us ms s min h)");
    return std::nullopt;
  }
  if (*parsed >= least) return parsed;
  problem("must be at least " + to_string(least));
  return std::nullopt;
}

std::optional<double> json_reader::as_rate() const {
  const auto parsed = value_->is_string() ? parse_rate(value_->get_ref<const std::string&>()) : std::nullopt;
  if (!parsed || *parsed <= 0) {
    problem("expected a rate above zero such as \"850/s\" or \"30/min\"");
    return std::nullopt;
  }
  return parsed;
}

std::optional<double> json_reader::as_number(double least, double most) const {
  if (value_->is_number()) {
    const double number = value_->get<double>();
    if (number >= least && number <= most) return number;
  }
  const auto show = [](double bound) { return nlohmann::json(bound).dump(); };
  problem(most < 1e300 ? "expected a number between " + show(least) + " and " + show(most)
                       : "expected a number of at least " + show(least));
  return std::nullopt;
}

std::optional<std::size_t> json_reader::as_count(std::size_t least) const {
  constexpr std::size_t most = 1'000'000'000;
  // A document made by a program rather than a parser may hold its numbers signed. They are told apart first, since
  // comparing them as JSON takes the largest unsigned ones for negative.
  if (value_->is_number_unsigned() || (value_->is_number_integer() && *value_ >= 0)) {
    const auto count = value_->get<std::size_t>();
    if (count >= least && count <= most) return count;
    if (count > most) {
      problem("must be at most " + std::to_string(most));
      return std::nullopt;
    }
  }
  problem("expected a whole number of at least " + std::to_string(least));
  return std::nullopt;
}

std::optional<std::int64_t> json_reader::as_integer(std::int64_t least, std::int64_t most) const {
  const bool fits = !value_->is_number_unsigned() || value_->get<std::uint64_t>() <= std::uint64_t{INT64_MAX};
  if (value_->is_number_integer() && fits) {
    const auto number = value_->get<std::int64_t>();
    if (number >= least && number <= most) return number;
  }
  problem("expected a whole number between " + std::to_string(least) + " and " + std::to_string(most));
  return std::nullopt;
}

std::optional<bool> json_reader::as_bool() const {
  if (value_->is_boolean()) return value_->get<bool>();
  problem("expected true or false");
  return std::nullopt;
}

std::optional<std::size_t> json_reader::as_word(const std::vector<std::string>& words) const {
  const auto text = as_string();
  if (!text) return std::nullopt;
  const auto found = std::ranges::find(words, *text);
  if (found != words.end()) return static_cast<std::size_t>(found - words.begin());
  std::string known;
  for (const auto& word : words) known += (known.empty() ? "" : ", ") + word;
  problem("unknown word " + in_quotes(*text) + nearest_hint(*text, words) + " (known: " + known + ")");
  return std::nullopt;
}

void json_reader::read(std::string_view key, std::string& target) {
  if (const auto member = find(key)) target = member->as_string().value_or(target);
}
void json_reader::read(std::string_view key, duration& target, duration least) {
  if (const auto member = find(key)) target = member->as_duration(least).value_or(target);
}
void json_reader::read(std::string_view key, std::size_t& target, std::size_t least) {
  if (const auto member = find(key)) target = member->as_count(least).value_or(target);
}
void json_reader::read(std::string_view key, double& target, double least, double most) {
  if (const auto member = find(key)) target = member->as_number(least, most).value_or(target);
}
void json_reader::read(std::string_view key, bool& target) {
  if (const auto member = find(key)) target = member->as_bool().value_or(target);
}
void json_reader::read_rate(std::string_view key, double& target) {
  if (const auto member = find(key)) target = member->as_rate().value_or(target);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
