#include <cofferdam/core/timeout.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::detail {

outcome<child_options> limit_child(const net::any_io_executor& executor, time_point limit, on_timeout mode,
                                   shared_name name) {
  const time_point inherited = deadline_of(executor);
  const time_point present = limit == never && inherited == never ? time_point() : timers_of(executor).now();
  if (inherited <= present) return failure::refused(errc::deadline_exceeded, std::move(name));
  if (limit <= present) return failure::refused(errc::timed_out, std::move(name));
  child_options options;
  options.mode = mode;
  options.name = std::move(name);
  if (inherited <= limit) {
    options.home =
        is_bare_pool(executor) ? net::any_io_executor(deadline_executor(ordered(executor), inherited)) : executor;
    return options;
  }
  options.home = ordered(executor);
  options.limit = limit;
  return options;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
