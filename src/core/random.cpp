#include <cofferdam/core/random.hpp>

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

random_service::random_service(net::execution_context& context) : service(context), source_(entropy()) {}

random_source& random_of(net::execution_context& context) { return net::use_service<random_service>(context).source(); }

random_source& random_of(const net::any_io_executor& executor) {
  return random_of(net::query(executor, net::execution::context));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
