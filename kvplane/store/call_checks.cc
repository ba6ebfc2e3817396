#include "kvplane/store/call_checks.h"

namespace kvplane::store {

base::Status CheckKeys(std::span<const StoreKey> keys) {
  if (keys.size() > kMaxKeysPerCall) {
    return base::InvalidArgument("{} keys in one call, the limit is {}", keys.size(), kMaxKeysPerCall);
  }
  return base::Status::Ok();
}

base::Status CheckPut(const EntryMeta& meta, uint64_t object_bytes) {
  if (object_bytes > kMaxStoredBytes) {
    return base::ResourceExhausted("an object of {} bytes, the limit is {}", object_bytes, kMaxStoredBytes);
  }
  if (meta.prefix_bytes > object_bytes) {
    return base::InvalidArgument("a prefix of {} bytes in an object of {}", meta.prefix_bytes, object_bytes);
  }
  if (meta.quality > kLossless) {
    return base::InvalidArgument("quality {} is above {} (lossless)", meta.quality, kLossless);
  }
  if (meta.ttl < base::Duration::zero()) return base::InvalidArgument("a negative time to live");
  return base::Status::Ok();
}

base::Result<ByteRange> ResolveRange(const ReadRequest& request, uint64_t object_bytes) {
  if (request.offset > object_bytes || request.bytes > object_bytes - request.offset) {
    return base::InvalidArgument("bytes {} from offset {} of an object of {} bytes", request.bytes,
                                 request.offset, object_bytes);
  }
  const uint64_t rest = object_bytes - request.offset;
  return ByteRange{.offset = request.offset, .bytes = request.bytes == 0 ? rest : request.bytes};
}

base::Status CheckDeadline(base::TimePoint deadline) {
  if (deadline == base::kNoDeadline || base::Clock::System().Now() < deadline) return base::Status::Ok();
  return base::DeadlineExceeded("the deadline had passed before the call began");
}

}  // namespace kvplane::store
