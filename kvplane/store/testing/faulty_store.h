// Decorator that breaks a store on purpose: for tests of whatever stands on one.
//
// Thread safety: as in store.h; the switches from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kvplane/base/mutex.h"
#include "kvplane/store/store.h"

namespace kvplane::store {

class FaultyStore final : public Store {
 public:
  explicit FaultyStore(std::shared_ptr<Store> inner) : inner_(std::move(inner)) {}

  // Every call from now on ends with this status; OK: as usual.
  void Fail(base::Status status);
  // Only Put() ends so.
  void FailPuts(base::Status status);
  // Only reads of this key end so.
  void FailReadsOf(const StoreKey& key, base::Status status);
  // Only Erase() and EraseTenant() end so.
  void FailErasures(base::Status status);
  // Calls wait at the door until Open(), their deadline or Shutdown().
  void Close();
  void Open();
  // Until a call of Put() waits at the closed door.
  void AwaitBlockedPut();
  // Called once, without locks, by the next erasure or quarantine before it does anything: what others do in
  // that moment.
  void BeforeErasure(std::function<void()> hook);
  // The same of Put().
  void BeforePut(std::function<void()> hook);
  uint64_t calls() const;
  uint64_t put_calls() const;
  uint64_t erase_calls() const;  // of Erase()

  TierKind kind() const override { return TierKind::kDisk; }
  std::string name() const override { return "faulty " + inner_->name(); }
  base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                              base::TimePoint deadline) override;
  std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                        base::TimePoint deadline) override;
  base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                   base::TimePoint deadline) override;
  base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) override;
  base::Status Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) override;
  base::Status Erase(const StoreKey& key, base::TimePoint deadline) override;
  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override;
  void Quarantine(const StoreKey& key) override;
  base::Status Flush(base::TimePoint deadline) override;
  StoreStats stats() const override { return inner_->stats(); }
  void Shutdown() override;

 private:
  // Waits at the door and says how the call ends if not as usual.
  base::Status Enter(base::TimePoint deadline, bool put = false);
  base::Status EnterErasure(base::TimePoint deadline);
  void Call(std::function<void()>& hook) KVPLANE_EXCLUDES(mutex_);

  const std::shared_ptr<Store> inner_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  base::Status failure_ KVPLANE_GUARDED_BY(mutex_);
  base::Status put_failure_ KVPLANE_GUARDED_BY(mutex_);
  StoreKey unreadable_ KVPLANE_GUARDED_BY(mutex_){};
  base::Status read_failure_ KVPLANE_GUARDED_BY(mutex_);  // of that one
  base::Status erasure_failure_ KVPLANE_GUARDED_BY(mutex_);
  std::function<void()> erasure_hook_;  // these two change under mutex_
  std::function<void()> put_hook_;
  bool closed_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
  uint64_t blocked_puts_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t calls_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t put_calls_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t erase_calls_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvplane::store
