// Key chains: the names of a prompt's block runs.
//
// A run is kDefaultRunTokens tokens. Its key is SHA-256 over (parent key, token ids as little-endian int32),
// the parent of the first run is SHA-256 over (model fingerprint, rope hash, tokens per run, tenant, salt).
// So equal keys mean equal KV up to a collision of SHA-256, two tenants (or two salts) never share a name,
// and nobody can guess a name without knowing all tokens before it and the salt.
//
// An engine with hashes of its own gives them as opaque bytes (KeyFromForeign), bound to the same space.
//
// Thread safety: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

constexpr uint32_t kDefaultRunTokens = 256;  // a multiple of the tile (64)
constexpr size_t kMaxSaltBytes = 256;
constexpr size_t kMaxTenantBytes = 256;

struct KeySpace {
  std::array<std::byte, 32> model_fingerprint{};
  std::array<std::byte, 16> rope{};
  uint32_t run_tokens = kDefaultRunTokens;  // a multiple of tensor::kTileTokens, at most 65,536
  std::string tenant{};                     // empty: the default tenant
  std::string salt{};
  base::Status Validate() const;
};

// First 8 bytes, little-endian, of SHA-256 over "kvplane tenant:" and the name.
uint64_t TenantId(std::string_view tenant);

// Keys of all whole runs of `tokens`: tokens.size() / run_tokens of them. Requires: space is valid.
std::vector<StoreKey> KeyChain(const KeySpace& space, std::span<const int32_t> tokens);

// Requires: space is valid.
StoreKey KeyFromForeign(const KeySpace& space, std::span<const std::byte> hash);

}  // namespace kvplane::store
