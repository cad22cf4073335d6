// Reads JSON objects strictly: every key is asked for or reported, every problem is collected with its path, and a
// mistyped key is answered with the nearest known one.
#pragma once

#include <cofferdam/core/time.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// One JSON value at a path. All readers of a document share its list of problems.
class json_reader {
 public:
  json_reader(const nlohmann::json& value, std::string path, std::vector<std::string>& problems)
      : value_(&value), path_(std::move(path)), problems_(&problems) {}

  [[nodiscard]] const nlohmann::json& value() const noexcept { return *value_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::vector<std::string>* problems() const noexcept { return problems_; }
  void problem(const std::string& text) const { problems_->push_back((path_.empty() ? "/" : path_) + ": " + text); }

  /// False, and a problem, unless this is an object.
  bool is_object() const;
  bool is_array() const;
  /// The member `key`; nothing when absent.
  std::optional<json_reader> find(std::string_view key);
  /// The member `key`; nothing and a problem when absent.
  std::optional<json_reader> require(std::string_view key);
  std::vector<json_reader> items() const;
  std::vector<std::pair<std::string, json_reader>> members() const;
  /// Reports every member that nobody asked for.
  void finish() const;

  std::optional<std::string> as_string() const;
  std::optional<duration> as_duration(duration least = duration::zero()) const;
  std::optional<double> as_rate() const;
  std::optional<double> as_number(double least, double most) const;
  std::optional<std::size_t> as_count(std::size_t least) const;
  std::optional<std::int64_t> as_integer(std::int64_t least, std::int64_t most) const;
  std::optional<bool> as_bool() const;
  /// The index of the word among `words`.
  std::optional<std::size_t> as_word(const std::vector<std::string>& words) const;

  // Shorthands: read member `key` into `target` if it is there and well-formed.
  void read(std::string_view key, std::string& target);
  void read(std::string_view key, duration& target, duration least = duration::zero());
  void read(std::string_view key, std::size_t& target, std::size_t least = 0);
  void read(std::string_view key, double& target, double least, double most);
  void read(std::string_view key, bool& target);
  void read_rate(std::string_view key, double& target);

 private:
  const nlohmann::json* value_;
  std::string path_;
  std::vector<std::string>* problems_;
  std::vector<std::string> asked_;
};

/// Errors: `std::runtime_error` that says what is wrong with the file, but not which it is.
[[nodiscard]] nlohmann::json read_json_file(const std::string& path);

/// `; did you mean "x"?`, or nothing when no candidate is near.
[[nodiscard]] std::string nearest_hint(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
