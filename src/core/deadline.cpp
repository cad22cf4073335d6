#include <cofferdam/core/deadline.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

using context_executor = net::io_context::executor_type;
using pool_executor = net::thread_pool::executor_type;

}  // namespace

net::any_io_executor base_executor(const net::any_io_executor& executor) {
  if (const auto* limited = target_of<deadline_executor>(executor)) return base_executor(limited->inner());
  if (const auto* strand = target_of<net::strand<net::any_io_executor>>(executor)) {
    return base_executor(strand->get_inner_executor());
  }
  if (const auto* strand = target_of<net::strand<context_executor>>(executor)) return strand->get_inner_executor();
  if (const auto* strand = target_of<net::strand<pool_executor>>(executor)) return strand->get_inner_executor();
  return net::prefer(executor, net::execution::outstanding_work.untracked);
}

bool is_bare_pool(const net::any_io_executor& executor) noexcept {
  return target_of<pool_executor>(without_deadline(executor)) != nullptr;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
