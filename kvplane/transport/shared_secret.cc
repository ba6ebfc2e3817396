#include "kvplane/transport/shared_secret.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <memory>

namespace kvplane::transport {
namespace {

constexpr std::string_view kSalt = "kvplane";

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Kdf = std::unique_ptr<EVP_KDF, Deleter<EVP_KDF_free>>;
using KdfContext = std::unique_ptr<EVP_KDF_CTX, Deleter<EVP_KDF_CTX_free>>;
using Mac = std::unique_ptr<EVP_MAC, Deleter<EVP_MAC_free>>;
using MacContext = std::unique_ptr<EVP_MAC_CTX, Deleter<EVP_MAC_CTX_free>>;

unsigned char* Bytes(Key& key) { return reinterpret_cast<unsigned char*>(key.data()); }

// OpenSSL's parameters are not const but are only read.
OSSL_PARAM Octets(const char* name, std::string_view value) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<char*>(value.data()), value.size());
}

}  // namespace

base::Result<Key> DeriveKey(std::string_view token, std::string_view label) {
  const Kdf kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  const KdfContext context(kdf == nullptr ? nullptr : EVP_KDF_CTX_new(kdf.get()));
  char digest[] = "SHA256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                               Octets(OSSL_KDF_PARAM_SALT, kSalt), Octets(OSSL_KDF_PARAM_KEY, token),
                               Octets(OSSL_KDF_PARAM_INFO, label), OSSL_PARAM_construct_end()};
  Key key;
  if (context == nullptr || EVP_KDF_derive(context.get(), Bytes(key), key.size(), params) != 1) {
    return base::Internal("OpenSSL has no HKDF-SHA256");
  }
  return key;
}

base::Result<Key> Authenticate(const Key& key, std::initializer_list<std::span<const std::byte>> parts) {
  const Mac mac(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
  const MacContext context(mac == nullptr ? nullptr : EVP_MAC_CTX_new(mac.get()));
  char digest[] = "SHA256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                               OSSL_PARAM_construct_end()};
  bool ok =
      context != nullptr && EVP_MAC_init(context.get(), reinterpret_cast<const unsigned char*>(key.data()),
                                         key.size(), params) == 1;
  for (const auto part : parts) {
    ok = ok &&
         EVP_MAC_update(context.get(), reinterpret_cast<const unsigned char*>(part.data()), part.size()) == 1;
  }
  Key tag;
  size_t size = 0;
  if (!ok || EVP_MAC_final(context.get(), Bytes(tag), &size, tag.size()) != 1 || size != tag.size()) {
    return base::Internal("OpenSSL has no HMAC-SHA256");
  }
  return tag;
}

base::Status FillRandom(std::span<std::byte> into) {
  if (RAND_bytes(reinterpret_cast<unsigned char*>(into.data()), static_cast<int>(into.size())) == 1) {
    return base::Status::Ok();
  }
  return base::Internal("the system has no random bytes");
}

bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace kvplane::transport
