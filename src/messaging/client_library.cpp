#include "client_library.hpp"

#if defined(COFFERDAM_HAS_NATS)
#include <nats/nats.h>
#endif

namespace cofferdam::inline COFFERDAM_ABI::detail {

net::thread_pool& blocking_calls() {
#if defined(COFFERDAM_HAS_NATS)
  // The library, and OpenSSL below it, first: they end after these threads, whose memory they have to free.
  static const natsStatus opened = nats_Open(-1);
  (void)opened;
#endif
  static net::thread_pool pool(4);
  return pool;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
