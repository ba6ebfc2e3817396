// Keys and proofs made from a token that two nodes share: HKDF-SHA256 (RFC 5869), HMAC-SHA256 (RFC 2104),
// random bytes, comparison in constant time. All of it is OpenSSL's; this file gives it our types.
//
// Thread safety: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::transport {

constexpr size_t kKeyBytes = 32;
using Key = std::array<std::byte, kKeyBytes>;

// A key for one purpose: `label` keeps the keys of different purposes independent of each other.
base::Result<Key> DeriveKey(std::string_view token, std::string_view label);

// HMAC of the concatenation of `parts`. Parts of variable length must be last, or their lengths fixed by what
// precedes them.
base::Result<Key> Authenticate(const Key& key, std::initializer_list<std::span<const std::byte>> parts);

// Unpredictable bytes; kInternal when the system has none.
base::Status FillRandom(std::span<std::byte> into);

// In time that does not depend on where the two differ.
bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b);

}  // namespace kvplane::transport
