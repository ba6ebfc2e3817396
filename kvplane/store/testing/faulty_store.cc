#include "kvplane/store/testing/faulty_store.h"

#include <utility>

namespace kvplane::store {

void FaultyStore::Fail(base::Status status) {
  base::MutexLock lock(mutex_);
  failure_ = std::move(status);
}

void FaultyStore::FailPuts(base::Status status) {
  base::MutexLock lock(mutex_);
  put_failure_ = std::move(status);
}

void FaultyStore::FailReadsOf(const StoreKey& key, base::Status status) {
  base::MutexLock lock(mutex_);
  unreadable_ = key;
  read_failure_ = std::move(status);
}

void FaultyStore::FailErasures(base::Status status) {
  base::MutexLock lock(mutex_);
  erasure_failure_ = std::move(status);
}

void FaultyStore::Close() {
  base::MutexLock lock(mutex_);
  closed_ = true;
}

void FaultyStore::Open() {
  base::MutexLock lock(mutex_);
  closed_ = false;
  changed_.NotifyAll();
}

void FaultyStore::AwaitBlockedPut() {
  base::MutexLock lock(mutex_);
  while (blocked_puts_ == 0) changed_.Wait(mutex_);
}

void FaultyStore::BeforeErasure(std::function<void()> hook) {
  base::MutexLock lock(mutex_);
  erasure_hook_ = std::move(hook);
}

void FaultyStore::BeforePut(std::function<void()> hook) {
  base::MutexLock lock(mutex_);
  put_hook_ = std::move(hook);
}

void FaultyStore::Call(std::function<void()>& hook) {
  std::function<void()> called;
  {
    base::MutexLock lock(mutex_);
    called = std::exchange(hook, nullptr);
  }
  if (called != nullptr) called();
}

base::Status FaultyStore::EnterErasure(base::TimePoint deadline) {
  Call(erasure_hook_);
  KVPLANE_RETURN_IF_ERROR(Enter(deadline));
  base::MutexLock lock(mutex_);
  return erasure_failure_;
}

uint64_t FaultyStore::calls() const {
  base::MutexLock lock(mutex_);
  return calls_;
}

uint64_t FaultyStore::put_calls() const {
  base::MutexLock lock(mutex_);
  return put_calls_;
}

uint64_t FaultyStore::erase_calls() const {
  base::MutexLock lock(mutex_);
  return erase_calls_;
}

base::Status FaultyStore::Enter(base::TimePoint deadline, bool put) {
  base::MutexLock lock(mutex_);
  ++calls_;
  if (put) {
    ++put_calls_;
    ++blocked_puts_;
    changed_.NotifyAll();
  }
  bool late = false;
  while (closed_ && !shut_down_ && !late) late = !changed_.WaitUntil(mutex_, deadline);
  if (put) --blocked_puts_;
  if (shut_down_) return base::Cancelled("the store was shut down");
  if (closed_) return base::DeadlineExceeded("the door stayed closed");
  return failure_.ok() && put ? put_failure_ : failure_;
}

base::Result<std::vector<EntryInfo>> FaultyStore::Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                                         base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(Enter(deadline));
  auto found = inner_->Lookup(keys, min_quality, deadline);
  if (!found.ok()) return found;
  for (EntryInfo& info : *found) info.tier = kind();
  return found;
}

std::vector<base::Result<Slice>> FaultyStore::Read(std::span<const ReadRequest> requests,
                                                   base::TimePoint deadline) {
  if (base::Status failed = Enter(deadline); !failed.ok()) return {requests.size(), failed};
  auto results = inner_->Read(requests, deadline);
  base::MutexLock lock(mutex_);
  for (size_t i = 0; i < requests.size(); ++i) {
    if (!read_failure_.ok() && requests[i].key == unreadable_) results[i] = read_failure_;
  }
  return results;
}

base::Status FaultyStore::Put(const StoreKey& key, const EntryMeta& meta, Slice object,
                              const PutOptions& options, base::TimePoint deadline) {
  Call(put_hook_);
  KVPLANE_RETURN_IF_ERROR(Enter(deadline, true));
  return inner_->Put(key, meta, std::move(object), options, deadline);
}

base::Status FaultyStore::Touch(std::span<const StoreKey> keys, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(Enter(deadline));
  return inner_->Touch(keys, deadline);
}

base::Status FaultyStore::Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(Enter(deadline));
  return inner_->Pin(key, max_age, deadline);
}

base::Status FaultyStore::Erase(const StoreKey& key, base::TimePoint deadline) {
  {
    base::MutexLock lock(mutex_);
    ++erase_calls_;
  }
  KVPLANE_RETURN_IF_ERROR(EnterErasure(deadline));
  return inner_->Erase(key, deadline);
}

base::Result<uint64_t> FaultyStore::EraseTenant(uint64_t tenant, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(EnterErasure(deadline));
  return inner_->EraseTenant(tenant, deadline);
}

void FaultyStore::Quarantine(const StoreKey& key) {
  Call(erasure_hook_);
  inner_->Quarantine(key);
}

base::Status FaultyStore::Flush(base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(Enter(deadline));
  return inner_->Flush(deadline);
}

void FaultyStore::Shutdown() {
  {
    base::MutexLock lock(mutex_);
    shut_down_ = true;
    changed_.NotifyAll();
  }
  inner_->Shutdown();
}

}  // namespace kvplane::store
