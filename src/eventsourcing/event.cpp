#include <cofferdam/eventsourcing/event.hpp>

#include <algorithm>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::string_view id_form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
constexpr std::string_view digits = "0123456789abcdef";

int value_of(char digit) noexcept {
  const char lower = digit >= 'A' && digit <= 'F' ? static_cast<char>(digit - 'A' + 'a') : digit;
  const std::size_t found = digits.find(lower);
  return found == std::string_view::npos ? -1 : static_cast<int>(found);
}

}  // namespace

event_id event_id::parse(std::string_view text) {
  const auto wrong = [text] {
    return std::invalid_argument("'" + std::string(text) + "' is no event id like " + std::string(id_form));
  };
  if (text.size() != id_form.size()) throw wrong();
  bytes_type bytes{};
  std::size_t n = 0;
  for (std::size_t i = 0; i < id_form.size(); ++i) {
    if (id_form[i] == '-') {
      if (text[i] != '-') throw wrong();
      continue;
    }
    const int digit = value_of(text[i]);
    if (digit < 0) throw wrong();
    bytes[n / 2] = static_cast<std::uint8_t>(bytes[n / 2] << 4 | digit);
    ++n;
  }
  return event_id(bytes);
}

event_id event_id::make(std::chrono::system_clock::time_point at, random_source& random) {
  const auto milliseconds =
      static_cast<std::uint64_t>(std::chrono::floor<std::chrono::milliseconds>(at.time_since_epoch()).count());
  // RFC 9562: time : 48 | version : 4 | random : 12 | variant : 2 | random : 62
  const std::uint64_t high = milliseconds << 16 | 0x7000 | (random() & 0x0fff);
  const std::uint64_t low = (random() >> 2) | std::uint64_t{1} << 63;
  bytes_type bytes{};
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::uint8_t>(high >> (56 - 8 * i));
    bytes[8 + i] = static_cast<std::uint8_t>(low >> (56 - 8 * i));
  }
  return event_id(bytes);
}

std::string event_id::to_string() const {
  std::string text(id_form);
  std::size_t n = 0;
  for (char& c : text) {
    if (c == '-') continue;
    const std::uint8_t byte = bytes_[n / 2];
    c = digits[n % 2 == 0 ? byte >> 4 : byte & 15];
    ++n;
  }
  return text;
}

event& event::tag(std::string t) & {
  const auto place = std::lower_bound(tags_.begin(), tags_.end(), t);
  if (place == tags_.end() || *place != t) tags_.insert(place, std::move(t));
  return *this;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
