// PutBudget: bytes of objects on their way into a store server. An object is taken as a whole, so its bytes
// are reserved before the first of them may be sent; what does not fit waits its turn.
//
// First come, first served, except that a connection at its own limit does not hold up the others.
//
// Thread safety: all members may be called from any thread. Grants are told to their receivers without the
// budget's lock held.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kvplane/base/mutex.h"

namespace kvplane::store {

class PutBudget {
 public:
  class Receiver;
  struct Ticket {
    std::weak_ptr<Receiver> receiver;
    uint64_t connection = 0;
    uint32_t stream = 0;
    uint64_t bytes = 0;
    bool granted = false;   // guarded by the budget
    bool released = false;  // guarded by the budget
  };

  // Told, from the thread that released bytes, that something asked for before may go now.
  class Receiver {
   public:
    virtual ~Receiver() = default;
    virtual void OnPutGranted(const std::shared_ptr<Ticket>& ticket) = 0;
  };

  PutBudget(uint64_t total_bytes, uint64_t connection_bytes)
      : total_bytes_(total_bytes), connection_bytes_(connection_bytes) {}

  // The largest object that can ever be granted.
  uint64_t largest() const { return std::min(total_bytes_, connection_bytes_); }

  // True: reserved at once. False: the receiver will be told, unless it has released the ticket. Requires:
  // ticket->bytes <= largest().
  bool Acquire(const std::shared_ptr<Ticket>& ticket) KVPLANE_EXCLUDES(mutex_);

  // Gives the bytes back, or leaves the queue. A second call for a ticket does nothing.
  void Release(const std::shared_ptr<Ticket>& ticket) KVPLANE_EXCLUDES(mutex_);

  uint64_t reserved_bytes() const KVPLANE_EXCLUDES(mutex_);

 private:
  bool TryGrantLocked(Ticket& ticket) KVPLANE_REQUIRES(mutex_);
  std::vector<std::shared_ptr<Ticket>> GrantWaitingLocked() KVPLANE_REQUIRES(mutex_);

  const uint64_t total_bytes_;
  const uint64_t connection_bytes_;
  mutable base::Mutex mutex_;
  uint64_t reserved_ KVPLANE_GUARDED_BY(mutex_) = 0;
  std::unordered_map<uint64_t, uint64_t> reserved_by_connection_ KVPLANE_GUARDED_BY(mutex_);
  std::list<std::shared_ptr<Ticket>> waiting_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::store
