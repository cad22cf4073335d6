#include <cofferdam/core/spawn.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {

namespace {
/// One on a context's own executor is small enough for any_io_executor to hold in place, and is asked nothing by way of
/// the heap.
net::any_io_executor strand_on(const net::any_io_executor& executor) {
  if (const auto* context = target_of<net::io_context::executor_type>(executor)) return net::make_strand(*context);
  if (const auto* pool = target_of<net::thread_pool::executor_type>(executor)) return net::make_strand(*pool);
  return net::make_strand(executor);
}
}  // namespace

net::any_io_executor own_strand(const net::any_io_executor& executor) {
  const auto& inner = without_deadline(executor);
  const bool is_strand = target_of<net::strand<net::any_io_executor>>(inner) != nullptr ||
                         target_of<net::strand<net::io_context::executor_type>>(inner) != nullptr ||
                         target_of<net::strand<net::thread_pool::executor_type>>(inner) != nullptr;
  if (is_strand || timers_of(executor).is_virtual()) {
    return marks_of(executor) ? with_call(executor, deadline_of(executor), nullptr) : executor;
  }
  return with_call(strand_on(inner), deadline_of(executor), nullptr);
}

void spawned_state::start(awaitable<void> body) {
  const auto on_end = [self = reference<spawned_state>::share(*this)](const std::exception_ptr& error) {
    self->end();
    if (!error || failure::thrown(error).is_cancellation()) return;
    std::rethrow_exception(error);
  };
  net::co_spawn(strand_, std::move(body), net::bind_cancellation_slot(signal_.slot(), on_end));
}

void spawned_state::end() {
  std::vector<parked_reference> joining;
  {
    const std::lock_guard lock(mutex_);
    has_ended_ = true;
    joining.swap(joining_);
  }
  for (const auto& each : joining) each->wake(wake_reason::woken);
}

awaitable<void> spawned_state::join(reference<spawned_state> self) {
  const auto has_ended = [&self] { return self->has_ended_; };
  const auto woken = co_await park(never, wait_among(self->joining_, self->mutex_, has_ended));
  if (woken == wake_reason::cancelled) failure::cancelled().raise();
}

void spawned_state::cancel() {
  net::dispatch(strand_, [self = reference<spawned_state>::share(*this)] {
    self->signal_.emit(net::cancellation_type::terminal);
  });
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
