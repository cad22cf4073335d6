#include <cofferdam/core/random.hpp>

#include <array>
#include <cstdio>
#include <numbers>
#include <random>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

std::uint64_t entropy() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) ^ device();
}

}  // namespace

double random_source::normal() noexcept {
  const double radius = std::sqrt(exponential(2.0));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

std::uint64_t random_source::split(std::uint64_t seed, std::string_view name) noexcept {
  std::uint64_t state = mix(seed + increment);
  for (const char c : name) state = mix(state ^ static_cast<unsigned char>(c)) + increment;
  return state;
}

std::string random_id(random_source& random) {
  const std::uint64_t first = random(), second = random();
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(first),
                static_cast<unsigned long long>(second));
  return text.data();
}

random_service::random_service(net::execution_context& context) : service(context), source_(entropy()) {}

random_source& random_of(net::execution_context& context) { return net::use_service<random_service>(context).source(); }

random_source& random_of(const net::any_io_executor& executor) {
  return random_of(net::query(executor, net::execution::context));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
