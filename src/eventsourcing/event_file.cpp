#include <cofferdam/eventsourcing/event_file.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include "event_lines.hpp"

#include <nlohmann/json.hpp>

#include <istream>
#include <limits>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::string_view hex_digits = "0123456789abcdef";

std::string to_hex(const std::string& bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += hex_digits[byte >> 4];
    text += hex_digits[byte & 15];
  }
  return text;
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  if (text.size() % 2 != 0) throw std::invalid_argument("\"data_hex\" has an odd number of digits");
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const std::size_t high = hex_digits.find(text[i]), low = hex_digits.find(text[i + 1]);
    if (high > 15 || low > 15) throw std::invalid_argument("\"data_hex\" is not hexadecimal");
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

}  // namespace

std::string detail::to_line(const recorded_event& e) {
  nlohmann::ordered_json line{
      {"stream", e.stream}, {"version", e.version}, {"id", e.id.to_string()}, {"type", e.type}, {"schema", e.schema}};
  line["at"] = detail::to_microseconds(e.at);
  line["data"] = e.data;
  if (!e.tags.empty()) line["tags"] = e.tags;
  if (!e.correlation.empty()) line["correlation"] = e.correlation;
  if (!e.causation.empty()) line["causation"] = e.causation;
  if (!e.metadata.empty()) line["metadata"] = e.metadata;
  line["position"] = e.position;
  try {
    return line.dump();
  } catch (const nlohmann::json::type_error&) {  // the data is no UTF-8; everything else was checked when it came
    line.erase("data");
    line["data_hex"] = to_hex(e.data);
    return line.dump();
  }
}

namespace {

/// A whole number of at least 0 and at most `most`, or of at least `-most` where `is_signed`.
std::int64_t whole_number(const nlohmann::json& line, const char* key, std::int64_t most, bool is_signed) {
  const auto& found = line.at(key);
  const auto wrong = [&](const char* why) { throw std::invalid_argument('"' + std::string(key) + "\" " + why); };
  if (!found.is_number_integer()) wrong("is no whole number");
  const bool is_above = found.is_number_unsigned() && found.get<std::uint64_t>() > static_cast<std::uint64_t>(most);
  const bool is_below = !found.is_number_unsigned() && found.get<std::int64_t>() < (is_signed ? -most : 0);
  if (is_above || is_below) wrong("is out of range");
  return found.get<std::int64_t>();
}

/// Errors: std::exception with what is wrong.
append_request to_request(const std::string& line) {
  const auto found = nlohmann::json::parse(line, nullptr, false);
  if (!found.is_object()) throw std::invalid_argument("is no JSON object");
  const auto text = [&found](const char* key) { return found.value(key, std::string()); };
  const bool is_hex = found.contains("data_hex");
  if (is_hex == found.contains("data")) throw std::invalid_argument("needs one of \"data\" and \"data_hex\"");
  event e(found.at("type").get<std::string>(),
          is_hex ? from_hex(found.at("data_hex").get<std::string>()) : found.at("data").get<std::string>());
  e.id(event_id::parse(found.at("id").get<std::string>()));
  if (found.contains("schema")) {
    e.schema(
        static_cast<std::uint32_t>(whole_number(found, "schema", std::numeric_limits<std::uint32_t>::max(), false)));
  }
  if (found.contains("at")) {
    constexpr std::int64_t far = 9'000'000'000'000'000;  // the year 2255; clocks count nanoseconds in 64 bits
    const std::int64_t at = whole_number(found, "at", far, true);
    e.at(detail::date_from(at));
  }
  for (const auto& tag : found.value("tags", std::vector<std::string>())) e.tag(tag);
  e.correlation(text("correlation")).causation(text("causation")).metadata(text("metadata"));
  append_request request(found.at("stream").get<std::string>(), expected::any());
  request.add(std::move(e));
  return request;
}

struct pending_import {
  batch work;
  std::vector<std::shared_ptr<const appended>> results;
  std::set<event_id> ids;
  std::size_t first_line = 0, last_line = 0, bytes = 0;
};

[[noreturn]] void raise_line(std::size_t first, std::size_t last, const std::string& why, errc code) {
  const std::string where = first == last ? "line " + std::to_string(first)
                                          : "lines " + std::to_string(first) + " to " + std::to_string(last);
  throw storage_error(code, where + ": " + why, {}, std::current_exception());
}

append_request request_of(std::size_t number, const std::string& line) {
  try {
    return to_request(line);
  } catch (const std::exception& wrong) {
    raise_line(number, number, wrong.what(), errc::event_rejected);
  }
}

awaitable<void> finish(database& db, pending_import& pending, import_result& total) {
  if (pending.results.empty()) co_return;
  const auto done = co_await db.try_commit(std::move(pending.work));
  if (!done) {
    const auto code = is_ours(done.code()) ? static_cast<errc>(done.code().value()) : errc::event_rejected;
    raise_line(pending.first_line, pending.last_line, done.why().message(), code);
  }
  for (const auto& result : pending.results) ++(result->is_duplicate ? total.duplicates : total.appended);
  pending = {};
}

}  // namespace

awaitable<std::size_t> export_events(event_store& store, std::ostream& out, std::uint64_t after) {
  std::size_t written = 0;
  read_options options;
  if (after == std::numeric_limits<std::uint64_t>::max()) co_return written;
  options.from = after + 1;
  options.as_stored = true;
  for (slice page; !page.is_end; options.from = page.scanned_to + 1) {
    page = co_await store.read_all(options);
    for (const auto& e : page.events) out << detail::to_line(e) << '\n';
    written += page.events.size();
    if (page.is_end) out.flush();
    if (!out) throw std::ios_base::failure("cannot write events");
  }
  co_return written;
}

awaitable<import_result> import_events(event_store& store, std::istream& in) {
  constexpr std::size_t most_lines = 500, most_bytes = 4'000'000;  // in one commit
  import_result total;
  pending_import pending;
  std::size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    append_request request = request_of(number, line);
    bool is_known = false;  // and has its inline rows
    if (store.has_inline_rows()) {
      const event_id id = request.events().front().id().value();
      is_known = !pending.ids.insert(id).second;
      if (!is_known) is_known = co_await store.knows_one_of(request);
    }
    try {
      pending.results.push_back(is_known ? store.add_events(pending.work, std::move(request))
                                         : store.append(pending.work, std::move(request)));
    } catch (const std::exception& wrong) {
      raise_line(number, number, wrong.what(), errc::event_rejected);
    }
    if (pending.results.size() == 1) pending.first_line = number;
    pending.last_line = number;
    pending.bytes += line.size();
    const bool is_full = pending.results.size() == most_lines || pending.bytes >= most_bytes;
    if (is_full) co_await finish(store.storage(), pending, total);
  }
  // A line may be missing its end, but the file must have had one.
  if (!in.eof()) throw std::ios_base::failure("cannot read events after line " + std::to_string(number));
  co_await finish(store.storage(), pending, total);
  co_return total;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
