// The one place that names Asio. `cofferdam::net` is standalone Asio (>= 1.22) or Boost.Asio (>= 1.81); differences
// between versions are levelled here and nowhere else. Sockets are in net_sockets.hpp.
#pragma once

#include <cofferdam/core/config.hpp>

#include <system_error>
#include <typeinfo>

#if defined(COFFERDAM_USE_BOOST_ASIO)
#define COFFERDAM_ASIO_HEADER(path) <boost/asio/path>
#else
#define COFFERDAM_ASIO_HEADER(path) <asio/path>
#endif

// clang-format off: it would put spaces into the paths
#include COFFERDAM_ASIO_HEADER(any_io_executor.hpp)
#include COFFERDAM_ASIO_HEADER(associated_cancellation_slot.hpp)
#include COFFERDAM_ASIO_HEADER(associated_executor.hpp)
#include COFFERDAM_ASIO_HEADER(async_result.hpp)
#include COFFERDAM_ASIO_HEADER(awaitable.hpp)
#include COFFERDAM_ASIO_HEADER(bind_cancellation_slot.hpp)
#include COFFERDAM_ASIO_HEADER(cancellation_signal.hpp)
#include COFFERDAM_ASIO_HEADER(cancellation_state.hpp)
#include COFFERDAM_ASIO_HEADER(co_spawn.hpp)
#include COFFERDAM_ASIO_HEADER(detached.hpp)
#include COFFERDAM_ASIO_HEADER(dispatch.hpp)
#include COFFERDAM_ASIO_HEADER(error.hpp)
#include COFFERDAM_ASIO_HEADER(execution_context.hpp)
#include COFFERDAM_ASIO_HEADER(experimental/as_tuple.hpp)
#include COFFERDAM_ASIO_HEADER(experimental/deferred.hpp)
#include COFFERDAM_ASIO_HEADER(io_context.hpp)
#include COFFERDAM_ASIO_HEADER(post.hpp)
#include COFFERDAM_ASIO_HEADER(recycling_allocator.hpp)
#include COFFERDAM_ASIO_HEADER(steady_timer.hpp)
#include COFFERDAM_ASIO_HEADER(strand.hpp)
#include COFFERDAM_ASIO_HEADER(system_executor.hpp)
#include COFFERDAM_ASIO_HEADER(this_coro.hpp)
#include COFFERDAM_ASIO_HEADER(thread_pool.hpp)
#include COFFERDAM_ASIO_HEADER(use_awaitable.hpp)
// clang-format on

#if !defined(COFFERDAM_USE_BOOST_ASIO) && !defined(ASIO_HAS_CO_AWAIT)
#error \
    "Asio does not see this compiler's coroutines: link the CMake target cofferdam::core, or define ASIO_HAS_CO_AWAIT and ASIO_HAS_STD_COROUTINE"
#endif

namespace cofferdam::inline COFFERDAM_ABI {

namespace net {
#if defined(COFFERDAM_USE_BOOST_ASIO)
using namespace ::boost::asio;
using asio_error_code = ::boost::system::error_code;
using asio_system_error = ::boost::system::system_error;
using ::boost::asio::as_tuple;
using ::boost::asio::deferred;
#else
using namespace ::asio;
using asio_error_code = ::asio::error_code;
using asio_system_error = ::asio::system_error;
#if ASIO_VERSION < 102300
using ::asio::experimental::as_tuple;
using ::asio::experimental::deferred;
#else
using ::asio::as_tuple;
using ::asio::deferred;
#endif
#endif
}  // namespace net

/// The executor inside `executor` if it is exactly an Executor. (Asio's own `target()` does not check the type.)
template <class Executor> [[nodiscard]] const Executor* target_of(const net::any_io_executor& executor) noexcept {
  return executor.target_type() == typeid(Executor) ? executor.target<Executor>() : nullptr;
}

/// The coroutine type of the library: Asio's, on the type-erased executor.
template <class T> using awaitable = net::awaitable<T, net::any_io_executor>;

/// True when `code` says that an operation was cancelled.
[[nodiscard]] inline bool is_cancellation(const std::error_code& code) noexcept {
  return code == std::error_code(net::asio_error_code(net::error::operation_aborted));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
