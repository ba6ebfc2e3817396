#include "kvplane/store/key_chain.h"

#include <fmt/format.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <cstring>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::store {
namespace {

constexpr uint32_t kMaxRunTokens = 65'536;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::array<std::byte, 32> Sha256(std::span<const std::byte> bytes) {
  std::array<std::byte, 32> digest;
  ::SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
           reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

constexpr size_t kChainWords = sizeof(StoreKey::chain) / sizeof(uint64_t);
using HashSecret = std::array<uint64_t, kChainWords + 2>;

HashSecret DrawHashSecret() {
  HashSecret secret;
  KVPLANE_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), sizeof(secret)) == 1);
  for (uint64_t& factor : secret) factor |= 1;
  return secret;
}

// Both halves of the product, folded: every bit of a factor moves the other's, as in wyhash (Wang Yi, 2019).
uint64_t Mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The parent of a chain's first key. Text fields carry their lengths, so that no two spaces give the same
// bytes.
std::array<std::byte, 32> RootOf(const KeySpace& space) {
  const auto text = [](std::span<const std::byte> bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const std::string fields =
      fmt::format("kvplane key chain 1:{}{}{}:{}:{}{}:{}", text(space.model_fingerprint), text(space.rope),
                  space.run_tokens, space.tenant.size(), space.tenant, space.salt.size(), space.salt);
  return Sha256(Bytes(fields));
}

}  // namespace

size_t StoreKeyHash::operator()(const StoreKey& key) const {
  static const HashSecret secret = DrawHashSecret();
  uint64_t hash = Mix(secret[0] ^ key.tenant, secret[1]);
  for (size_t word = 0; word < kChainWords; ++word) {
    hash = Mix(hash ^ base::LoadLe<uint64_t>(&key.chain[word * sizeof(uint64_t)]), secret[word + 2]);
  }
  return hash;
}

std::string_view Name(TierKind tier) {
  switch (tier) {
    case TierKind::kDram:
      return "dram";
    case TierKind::kDisk:
      return "disk";
    case TierKind::kRemote:
      return "remote";
    case TierKind::kRedis:
      return "redis";
  }
  KVPLANE_CHECK(false);
}

base::Status KeySpace::Validate() const {
  if (run_tokens == 0 || run_tokens > kMaxRunTokens || run_tokens % tensor::kTileTokens != 0) {
    return base::InvalidArgument("{} tokens per block run: must be a multiple of {}, at most {}", run_tokens,
                                 tensor::kTileTokens, kMaxRunTokens);
  }
  if (tenant.size() > kMaxTenantBytes) {
    return base::InvalidArgument("the tenant's name has {} bytes, the limit is {}", tenant.size(),
                                 kMaxTenantBytes);
  }
  if (salt.size() > kMaxSaltBytes) {
    return base::InvalidArgument("the salt has {} bytes, the limit is {}", salt.size(), kMaxSaltBytes);
  }
  return base::Status::Ok();
}

uint64_t TenantId(std::string_view tenant) {
  const std::string text = fmt::format("kvplane tenant:{}", tenant);
  return base::LoadLe<uint64_t>(Sha256(Bytes(text)).data());
}

std::vector<StoreKey> KeyChain(const KeySpace& space, std::span<const int32_t> tokens) {
  std::vector<StoreKey> keys;
  keys.reserve(tokens.size() / space.run_tokens);
  const uint64_t tenant = TenantId(space.tenant);
  std::array<std::byte, 32> parent = RootOf(space);
  const size_t run_bytes = space.run_tokens * sizeof(int32_t);
  std::vector<std::byte> bytes(parent.size() + run_bytes);
  for (size_t at = 0; at + space.run_tokens <= tokens.size(); at += space.run_tokens) {
    std::memcpy(bytes.data(), parent.data(), parent.size());
    std::memcpy(bytes.data() + parent.size(), tokens.data() + at, run_bytes);
    parent = Sha256(bytes);
    keys.push_back({.tenant = tenant, .chain = parent});
  }
  return keys;
}

StoreKey KeyFromForeign(const KeySpace& space, std::span<const std::byte> hash) {
  const std::array<std::byte, 32> root = RootOf(space);
  std::string text = "kvplane foreign key";  // no run of tokens begins like this: their parents are hashes
  text.append(reinterpret_cast<const char*>(root.data()), root.size());
  text.append(reinterpret_cast<const char*>(hash.data()), hash.size());
  return {.tenant = TenantId(space.tenant), .chain = Sha256(Bytes(text))};
}

}  // namespace kvplane::store
