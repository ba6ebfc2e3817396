// Decorator of a store whose ranges are read one by one, each with a permit: for tests of what happens
// between two of them.
//
// Thread safety: as in store.h; the gate from any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/store/store.h"

namespace kvplane::store {

class GateStore final : public Store {
 public:
  static constexpr uint64_t kOpen = ~uint64_t{0};

  GateStore(Store& inner, TierKind kind) : inner_(inner), kind_(kind) {}

  // So many more ranges may be read; kOpen: all.
  void Permit(uint64_t ranges) {
    base::MutexLock lock(mutex_);
    permits_ = ranges == kOpen ? kOpen : permits_ + ranges;
    changed_.NotifyAll();
  }
  void AwaitBlockedRead() {
    base::MutexLock lock(mutex_);
    while (blocked_ == 0) changed_.Wait(mutex_);
  }
  // The largest range asked for so far.
  uint64_t largest_range() const { return largest_range_; }
  PutOptions last_put_options() const {
    base::MutexLock lock(mutex_);
    return last_put_options_;
  }
  EntryMeta last_put_meta() const {
    base::MutexLock lock(mutex_);
    return last_put_meta_;
  }

  TierKind kind() const override { return kind_; }
  std::string name() const override { return "gate"; }
  base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                              base::TimePoint deadline) override {
    auto found = inner_.Lookup(keys, min_quality, deadline);
    if (found.ok()) {
      for (EntryInfo& info : *found) info.tier = kind_;
    }
    return found;
  }
  std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                        base::TimePoint deadline) override {
    std::vector<base::Result<Slice>> results;
    for (const ReadRequest& request : requests) {
      const base::Status status = Enter(request, deadline);
      if (status.ok()) {
        results.push_back(std::move(inner_.Read(std::span(&request, 1), deadline)[0]));
      } else {
        results.emplace_back(status);
      }
    }
    return results;
  }
  base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                   base::TimePoint deadline) override {
    {
      base::MutexLock lock(mutex_);
      last_put_options_ = options;
      last_put_meta_ = meta;
    }
    return inner_.Put(key, meta, std::move(object), options, deadline);
  }
  base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) override {
    return inner_.Touch(keys, deadline);
  }
  base::Status Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) override {
    return inner_.Pin(key, max_age, deadline);
  }
  base::Status Erase(const StoreKey& key, base::TimePoint deadline) override {
    return inner_.Erase(key, deadline);
  }
  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override {
    return inner_.EraseTenant(tenant, deadline);
  }
  void Quarantine(const StoreKey& key) override { inner_.Quarantine(key); }
  base::Status Flush(base::TimePoint deadline) override { return inner_.Flush(deadline); }
  StoreStats stats() const override { return inner_.stats(); }
  void Shutdown() override {
    inner_.Shutdown();
    Permit(kOpen);
  }

 private:
  base::Status Enter(const ReadRequest& request, base::TimePoint deadline) {
    base::MutexLock lock(mutex_);
    largest_range_ = std::max(largest_range_.load(), request.bytes);
    while (permits_ == 0) {
      ++blocked_;
      changed_.NotifyAll();
      const bool in_time = changed_.WaitUntil(mutex_, deadline);
      --blocked_;
      if (!in_time && permits_ == 0) return base::DeadlineExceeded("the gate is closed");
    }
    if (permits_ != kOpen) --permits_;
    return base::Status::Ok();
  }

  Store& inner_;
  const TierKind kind_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  uint64_t permits_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t blocked_ KVPLANE_GUARDED_BY(mutex_) = 0;
  PutOptions last_put_options_ KVPLANE_GUARDED_BY(mutex_);
  EntryMeta last_put_meta_ KVPLANE_GUARDED_BY(mutex_);
  std::atomic<uint64_t> largest_range_{0};
};

}  // namespace kvplane::store
