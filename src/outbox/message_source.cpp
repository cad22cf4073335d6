#include <cofferdam/outbox/message_source.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

awaitable<bool> message_source::move_due(batch /*fence*/) { co_return false; }
awaitable<std::optional<std::chrono::system_clock::time_point>> message_source::next_due() { co_return std::nullopt; }
awaitable<std::uint64_t> message_source::delayed() { co_return 0; }
awaitable<std::size_t> message_source::forget_before(std::chrono::system_clock::time_point /*t*/) { co_return 0; }

}  // namespace cofferdam::inline COFFERDAM_ABI
