#include "kvplane/store/key_chain.h"

#include <openssl/sha.h>

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

// The parent of a chain's first key. Text fields carry their lengths, so that no two spaces give the same
// bytes.
std::array<std::byte, 32> RootOf(const KeySpace& space) {
  std::vector<std::byte> bytes;
  base::ByteWriter writer(bytes);
  writer.PutString("kvplane key chain 1");
  writer.PutBytes(space.model_fingerprint);
  writer.PutBytes(space.rope);
  writer.Put<uint32_t>(space.run_tokens);
  writer.PutString(space.tenant);
  writer.PutString(space.salt);
  return Sha256(bytes);
}

}  // namespace

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
  std::vector<std::byte> bytes;
  base::ByteWriter writer(bytes);
  writer.PutString("kvplane tenant");
  writer.PutBytes(Bytes(tenant));
  return base::LoadLe<uint64_t>(Sha256(bytes).data());
}

std::vector<StoreKey> KeyChain(const KeySpace& space, std::span<const int32_t> tokens) {
  std::vector<StoreKey> keys;
  keys.reserve(tokens.size() / space.run_tokens);
  const uint64_t tenant = TenantId(space.tenant);
  std::array<std::byte, 32> parent = RootOf(space);
  std::vector<std::byte> bytes;
  for (size_t at = 0; at + space.run_tokens <= tokens.size(); at += space.run_tokens) {
    bytes.assign(parent.begin(), parent.end());
    base::ByteWriter(bytes).PutBytes(std::as_bytes(tokens.subspan(at, space.run_tokens)));
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
