// What every tier checks of its caller before it does anything, so that all of them refuse alike.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

// kInvalidArgument: more than kMaxKeysPerCall keys.
base::Status CheckKeys(std::span<const StoreKey> keys);

// kInvalidArgument: a prefix longer than the object, a quality above kLossless, a negative TTL;
// kResourceExhausted: an object above kMaxStoredBytes. Does not touch the object's bytes.
base::Status CheckPut(const EntryMeta& meta, uint64_t object_bytes);

struct ByteRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// The range that `request` means in an object of `object_bytes`. An empty range at the very end is legal.
// kInvalidArgument: it reaches beyond the end.
base::Result<ByteRange> ResolveRange(const ReadRequest& request, uint64_t object_bytes);

// kDeadlineExceeded when `deadline` (of the system clock) has passed.
base::Status CheckDeadline(base::TimePoint deadline);

}  // namespace kvplane::store
