#include "subject_cipher.hpp"

#ifdef COFFERDAM_HAS_SODIUM
#include <sodium.h>
#endif

#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI::detail {

#ifdef COFFERDAM_HAS_SODIUM

namespace {

constexpr std::size_t key_bytes = crypto_aead_xchacha20poly1305_ietf_KEYBYTES;
constexpr std::size_t nonce_bytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr std::size_t tag_bytes = crypto_aead_xchacha20poly1305_ietf_ABYTES;

const unsigned char* bytes_of(std::string_view text) noexcept {
  return reinterpret_cast<const unsigned char*>(text.data());
}
unsigned char* bytes_of(std::string& text) noexcept { return reinterpret_cast<unsigned char*>(text.data()); }

void require_key(std::string_view key) {
  if (key.size() != key_bytes) throw std::logic_error("a subject's key has 32 bytes");
}

/// A keyed hash of all that is sealed: the same twice gives the same box, anything else another nonce (a synthetic
/// initialisation vector, as in RFC 5297).
std::string nonce_of(std::string_view key, std::string_view text, std::string_view place) {
  std::string nonce(nonce_bytes, '\0');
  crypto_generichash_state state;
  crypto_generichash_init(&state, bytes_of(key), key.size(), nonce.size());
  const std::string length = std::to_string(place.size()) + ':';
  crypto_generichash_update(&state, bytes_of(length), length.size());
  crypto_generichash_update(&state, bytes_of(place), place.size());
  crypto_generichash_update(&state, bytes_of(text), text.size());
  crypto_generichash_final(&state, bytes_of(nonce), nonce.size());
  return nonce;
}

}  // namespace

bool has_subject_cipher() noexcept { return sodium_init() >= 0; }

std::string new_subject_key() {
  std::string key(key_bytes, '\0');
  randombytes_buf(key.data(), key.size());
  return key;
}

std::string seal_text(std::string_view key, std::string_view text, std::string_view place) {
  require_key(key);
  std::string box = nonce_of(key, text, place);
  std::string sealed(text.size() + tag_bytes, '\0');
  crypto_aead_xchacha20poly1305_ietf_encrypt(bytes_of(sealed), nullptr, bytes_of(text), text.size(), bytes_of(place),
                                             place.size(), nullptr, bytes_of(box), bytes_of(key));
  return box + sealed;
}

std::optional<std::string> open_text(std::string_view key, std::string_view box, std::string_view place) {
  require_key(key);
  if (box.size() < nonce_bytes + tag_bytes) return std::nullopt;
  const std::string_view nonce = box.substr(0, nonce_bytes), sealed = box.substr(nonce_bytes);
  std::string text(sealed.size() - tag_bytes, '\0');
  const int result =
      crypto_aead_xchacha20poly1305_ietf_decrypt(bytes_of(text), nullptr, nullptr, bytes_of(sealed), sealed.size(),
                                                 bytes_of(place), place.size(), bytes_of(nonce), bytes_of(key));
  if (result != 0) return std::nullopt;
  return text;
}

std::string to_base64(std::string_view bytes) {
  std::string text(sodium_base64_ENCODED_LEN(bytes.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(text.data(), text.size(), bytes_of(bytes), bytes.size(), sodium_base64_VARIANT_ORIGINAL);
  text.pop_back();  // the zero at its end
  return text;
}

std::string from_base64(std::string_view text) {
  std::string bytes(text.size(), '\0');
  std::size_t size = 0;
  const int result = sodium_base642bin(bytes_of(bytes), bytes.size(), text.data(), text.size(), nullptr, &size, nullptr,
                                       sodium_base64_VARIANT_ORIGINAL);
  bytes.resize(result == 0 ? size : 0);
  return bytes;
}

#else

namespace {
[[noreturn]] void missing() { throw std::logic_error("built without libsodium"); }
}  // namespace

bool has_subject_cipher() noexcept { return false; }
std::string new_subject_key() { missing(); }
std::string seal_text(std::string_view /*key*/, std::string_view /*text*/, std::string_view /*place*/) { missing(); }
std::optional<std::string> open_text(std::string_view /*key*/, std::string_view /*box*/, std::string_view /*place*/) {
  missing();
}
std::string to_base64(std::string_view /*bytes*/) { missing(); }
std::string from_base64(std::string_view /*text*/) { missing(); }

#endif

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
