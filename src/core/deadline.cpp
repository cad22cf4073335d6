#include <cofferdam/core/deadline.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

using context_executor = net::io_context::executor_type;
using pool_executor = net::thread_pool::executor_type;

}  // namespace

net::any_io_executor base_executor(const net::any_io_executor& executor) {
  if (const auto* limited = target_of<deadline_executor>(executor)) return base_executor(limited->inner());
  auto found = net::prefer(executor, net::execution::outstanding_work.untracked);
  if (const auto* strand = target_of<net::strand<net::any_io_executor>>(found)) {
    return base_executor(strand->get_inner_executor());
  }
  if (const auto* strand = target_of<net::strand<context_executor>>(found)) return strand->get_inner_executor();
  if (const auto* strand = target_of<net::strand<pool_executor>>(found)) return strand->get_inner_executor();
  return found;
}

bool is_within(const net::any_io_executor& executor, const void* what) noexcept {
  const auto* limited = target_of<deadline_executor>(executor);
  const call_mark* mark = limited ? limited->marks().get() : nullptr;
  for (; mark != nullptr; mark = mark->outer.get()) {
    if (mark->what == what && !mark->ended.load(std::memory_order_relaxed)) return true;
  }
  return false;
}

net::any_io_executor with_call(const net::any_io_executor& executor, time_point deadline, call_marks marks) {
  const auto& inner = without_deadline(executor);
  if (deadline == never && !marks) return inner;
  return deadline_executor(inner, deadline, std::move(marks));
}

bool is_bare_pool(const net::any_io_executor& executor) noexcept {
  return target_of<pool_executor>(without_deadline(executor)) != nullptr;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
