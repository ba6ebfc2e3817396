#include "kvplane/engine/testing/hooked_store.h"

namespace kvplane::engine {

base::Result<std::vector<store::EntryInfo>> HookedStore::Lookup(std::span<const store::StoreKey> keys,
                                                                uint16_t min_quality,
                                                                base::TimePoint deadline) {
  if (before_lookup) KVPLANE_RETURN_IF_ERROR(before_lookup(deadline));
  auto found = inner_->Lookup(keys, min_quality, deadline);
  if (after_lookup && found.ok()) after_lookup(*found);
  return found;
}

HookedStore::Slices HookedStore::Read(std::span<const store::ReadRequest> requests,
                                      base::TimePoint deadline) {
  if (before_read) {
    const base::Status status = before_read(requests, deadline);
    if (!status.ok()) return Slices(requests.size(), status);
  }
  Slices slices = inner_->Read(requests, deadline);
  if (after_read) after_read(requests, slices);
  return slices;
}

base::Status HookedStore::Put(const store::StoreKey& key, const store::EntryMeta& meta, store::Slice object,
                              const store::PutOptions& options, base::TimePoint deadline) {
  if (before_put) KVPLANE_RETURN_IF_ERROR(before_put());
  return inner_->Put(key, meta, std::move(object), options, deadline);
}

}  // namespace kvplane::engine
