// W3C trace context in headers, and the attributes of a CloudEvent 1.0 in its binary form.
//
//     messages.enqueue(b, as_cloud_event(message("orders.placed", "order.placed.v1", json), "shop"));
//     const auto from = trace_context::parse(m.headers().at("traceparent"));
//     const trace_context here = from->child(random);
#pragma once

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/outbox/message.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Which trace, and which step of it, something belongs to: the header "traceparent".
class trace_context {
 public:
  /// The beginning of a trace.
  [[nodiscard]] static trace_context begin(random_source& random, bool is_sampled = true);
  /// Nothing for a text that is none: the trace then begins anew, as the W3C wants it. Later versions are read as far
  /// as they are known.
  [[nodiscard]] static std::optional<trace_context> parse(std::string_view text);

  /// The next step: the same trace, an id of its own.
  [[nodiscard]] trace_context child(random_source& random) const;

  /// The header's text.
  [[nodiscard]] std::string to_string() const;
  /// 32 and 16 hexadecimal digits.
  [[nodiscard]] const std::string& trace_id() const noexcept { return trace_; }
  [[nodiscard]] const std::string& parent_id() const noexcept { return parent_; }
  [[nodiscard]] bool is_sampled() const noexcept { return is_sampled_; }

 private:
  trace_context(std::string trace, std::string parent, bool is_sampled)
      : trace_(std::move(trace)), parent_(std::move(parent)), is_sampled_(is_sampled) {}
  std::string trace_, parent_;
  bool is_sampled_;
};

/// Says what a CloudEvent must say beside what publishers tell by themselves.
/// @param source        who speaks: a service, say.
/// @param content_type  of the payload.
[[nodiscard]] message as_cloud_event(message m, std::string source, std::string content_type = "application/json");

/// Calls `each(name, text)` for the attributes that every publisher sends, without a broker's prefix for names:
/// "specversion", "id", "type", "time", "partitionkey".
template <class F> void for_each_cloud_event_attribute(const message& m, F each) {
  each("specversion", std::string("1.0"));
  each("id", m.id());
  each("type", m.type());
  if (m.time() != std::chrono::system_clock::time_point()) each("time", to_string(m.time(), 6));
  if (!m.key().empty()) each("partitionkey", m.key());
}

}  // namespace cofferdam::inline COFFERDAM_ABI
