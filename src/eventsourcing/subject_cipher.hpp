// The cipher under the vault: libsodium, or nothing.
#pragma once

#include <cofferdam/core/config.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI::detail {

[[nodiscard]] bool has_subject_cipher() noexcept;
[[nodiscard]] std::string new_subject_key();
/// Nonce and ciphertext. @param place  what it is bound to: the same is needed to open it.
[[nodiscard]] std::string seal_text(std::string_view key, std::string_view text, std::string_view place);
/// Nothing when it was sealed otherwise.
[[nodiscard]] std::optional<std::string> open_text(std::string_view key, std::string_view box, std::string_view place);

[[nodiscard]] std::string to_base64(std::string_view bytes);
/// Empty for what is no base64.
[[nodiscard]] std::string from_base64(std::string_view text);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
