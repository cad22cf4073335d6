#include <cofferdam/outbox/cloud_event.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// Lower case only, as the W3C wants it.
bool is_hex(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}
bool is_zero(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c == '0'; });
}
std::string some_id(random_source& random, std::size_t digits) {
  std::string id = random_id(random).substr(0, digits);
  while (is_zero(id)) id = random_id(random).substr(0, digits);
  return id;
}

}  // namespace

trace_context trace_context::begin(random_source& random, bool is_sampled) {
  std::string trace = some_id(random, 32);
  return {std::move(trace), some_id(random, 16), is_sampled};
}

std::optional<trace_context> trace_context::parse(std::string_view text) {
  constexpr std::size_t length = 55;  // version 00: 2 + 1 + 32 + 1 + 16 + 1 + 2
  if (text.size() < length || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  const auto version = text.substr(0, 2), trace = text.substr(3, 32), parent = text.substr(36, 16),
             flags = text.substr(53, 2);
  if (!is_hex(version) || !is_hex(trace) || !is_hex(parent) || !is_hex(flags)) return std::nullopt;
  if (version == "ff" || is_zero(trace) || is_zero(parent)) return std::nullopt;
  const bool has_more = text.size() > length;
  if (has_more && (version == "00" || text[length] != '-')) return std::nullopt;
  const char last = flags[1];
  const int digit = last <= '9' ? last - '0' : last - 'a' + 10;
  return trace_context(std::string(trace), std::string(parent), digit % 2 == 1);
}

trace_context trace_context::child(random_source& random) const { return {trace_, some_id(random, 16), is_sampled_}; }

std::string trace_context::to_string() const { return "00-" + trace_ + "-" + parent_ + (is_sampled_ ? "-01" : "-00"); }

message as_cloud_event(message m, std::string source, std::string content_type) {
  m.header("ce-source", std::move(source)).header("content-type", std::move(content_type));
  return m;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
