// HookedStore: a Store whose answers a test may change or delay. For tests only.
//
// Thread safety: as in store.h; hooks are set before the store is used, and run on the caller's thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/store/store.h"

namespace kvplane::engine {

class HookedStore final : public store::Store {
 public:
  using Slices = std::vector<base::Result<store::Slice>>;

  explicit HookedStore(std::shared_ptr<store::Store> inner) : inner_(std::move(inner)) {}

  // Before a call reaches the inner store: may wait, or answer in its place by a bad status.
  std::function<base::Status(base::TimePoint deadline)> before_lookup;
  std::function<base::Status(std::span<const store::ReadRequest>, base::TimePoint deadline)> before_read;
  std::function<base::Status()> before_put;
  // May change what was found, or read.
  std::function<void(std::vector<store::EntryInfo>&)> after_lookup;
  std::function<void(std::span<const store::ReadRequest>, Slices&)> after_read;

  store::TierKind kind() const override { return inner_->kind(); }
  std::string name() const override { return "hooked " + inner_->name(); }
  base::Result<std::vector<store::EntryInfo>> Lookup(std::span<const store::StoreKey> keys,
                                                     uint16_t min_quality, base::TimePoint deadline) override;
  Slices Read(std::span<const store::ReadRequest> requests, base::TimePoint deadline) override;
  base::Status Put(const store::StoreKey& key, const store::EntryMeta& meta, store::Slice object,
                   const store::PutOptions& options, base::TimePoint deadline) override;
  base::Status Touch(std::span<const store::StoreKey> keys, base::TimePoint deadline) override {
    return inner_->Touch(keys, deadline);
  }
  base::Status Pin(const store::StoreKey& key, base::Duration max_age, base::TimePoint deadline) override {
    return inner_->Pin(key, max_age, deadline);
  }
  base::Status Erase(const store::StoreKey& key, base::TimePoint deadline) override {
    return inner_->Erase(key, deadline);
  }
  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override {
    return inner_->EraseTenant(tenant, deadline);
  }
  void Quarantine(const store::StoreKey& key) override { inner_->Quarantine(key); }
  base::Status Flush(base::TimePoint deadline) override { return inner_->Flush(deadline); }
  store::StoreStats stats() const override { return inner_->stats(); }
  void Shutdown() override { inner_->Shutdown(); }

 private:
  const std::shared_ptr<store::Store> inner_;
};

}  // namespace kvplane::engine
