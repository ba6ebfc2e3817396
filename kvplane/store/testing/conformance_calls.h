// What the conformance suite of stores is made of: keys and bytes that numbers name, and calls that must not
// hang.
//
// Thread safety: pure functions, and calls of a store.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"
#include "kvplane/store/store.h"

namespace kvplane::store {

struct ConformanceCalls {
  using StatusCode = base::StatusCode;

  static constexpr uint64_t kTenant = 71;
  static constexpr uint64_t kOtherTenant = 72;

  // For calls that must succeed: only a hang reaches it.
  static base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }
  static base::TimePoint Past() { return base::Clock::System().Now() - std::chrono::milliseconds(1); }

  static StoreKey Key(uint64_t number, uint64_t tenant = kTenant) {
    StoreKey key{.tenant = tenant};
    base::Rng rng(number * 1000 + tenant);
    for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
    return key;
  }

  static std::vector<StoreKey> Keys(uint64_t first, uint64_t count) {
    std::vector<StoreKey> keys;
    for (uint64_t i = 0; i < count; ++i) keys.push_back(Key(first + i));
    return keys;
  }

  // Bytes that say which object and which version they are of, wherever a range begins.
  static std::vector<std::byte> Content(uint64_t number, uint64_t version, size_t bytes) {
    std::vector<std::byte> out(bytes);
    base::Rng rng(number * 7919 + version);
    for (auto& b : out) b = static_cast<std::byte>(rng.Next());
    return out;
  }

  static Slice Object(uint64_t number, uint64_t version, size_t bytes) {
    return Slice::Own(Content(number, version, bytes));
  }

  static std::vector<std::byte> Copy(const Slice& slice) {
    return {slice.bytes().begin(), slice.bytes().end()};
  }

  static bool Same(const Slice& slice, const std::vector<std::byte>& expected) {
    return std::ranges::equal(slice.bytes(), expected);
  }

  static std::vector<std::byte> Part(const std::vector<std::byte>& content, uint64_t offset, uint64_t bytes) {
    const auto part = std::span(content).subspan(offset, bytes);
    return {part.begin(), part.end()};
  }

  static base::Status PutObject(Store& store, uint64_t number, size_t bytes, uint16_t quality = kLossless) {
    return store.Put(Key(number), {.prefix_bytes = 0, .quality = quality, .ttl = {}},
                     Object(number, quality, bytes), {}, Soon());
  }

  static base::Result<Slice> ReadRange(Store& store, const StoreKey& key, uint64_t offset, uint64_t bytes) {
    const ReadRequest request{.key = key, .offset = offset, .bytes = bytes};
    auto results = store.Read(std::span(&request, 1), Soon());
    if (results.size() != 1) return base::Internal("{} results for one request", results.size());
    return std::move(results[0]);
  }

  static size_t Found(Store& store, std::span<const StoreKey> keys, uint16_t min_quality = 0) {
    const auto found = store.Lookup(keys, min_quality, Soon());
    EXPECT_TRUE(found.ok()) << found.status().ToString();
    return found.ok() ? found->size() : 0;
  }

  static bool Has(Store& store, const StoreKey& key) { return Found(store, std::span(&key, 1)) == 1; }
};

}  // namespace kvplane::store
