#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/timeout.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

std::string timeout::describe() const {
  const std::string limit = generator_ ? "generated" : to_string(limit_);
  return *name_ + ": timeout " + limit + (mode_ == on_timeout::detach ? ", detaches" : "");
}

}  // namespace cofferdam::inline COFFERDAM_ABI
