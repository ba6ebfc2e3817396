// PutBudget: bytes of objects on their way into a store server. An object is taken as a whole, so its bytes
// are reserved before the first of them may be sent; what does not fit waits its turn.
//
// First come, first served, except that what has to wait does not hold up the others. A connection, and an
// address with all its connections, may have a share; an address moreover no more than it leaves free
// (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
// Switches", 1998, with alpha 1). So of addresses that take all they can and let it lie, three leave an
// eighth of all (where no object is more than half of it), and each further one at least half of what it
// finds.
//
// An object larger than a share may exceed it alone. Of those that exceed the share of an address there is
// one at a time, and it leaves half a share free. Whatever fits into all is granted while nothing else is
// here.
//
// Thread safety: all members may be called from any thread. Grants are told to their receivers without the
// budget's lock held.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/mutex.h"

namespace kvplane::store {

class PutBudget {
 public:
  class Receiver;
  struct Ticket {
    std::weak_ptr<Receiver> receiver;
    std::string address;  // of the client, all its connections together
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

  struct Shares {
    uint64_t total = 0;
    uint64_t of_address = 0;
    uint64_t of_connection = 0;
  };

  explicit PutBudget(const Shares& shares) : shares_(shares) {}

  // The largest object that can ever be granted.
  uint64_t largest() const { return shares_.total; }

  // True: reserved at once. False: the receiver will be told, unless it has released the ticket. Requires:
  // ticket->bytes <= largest().
  bool Acquire(const std::shared_ptr<Ticket>& ticket) KVPLANE_EXCLUDES(mutex_);

  // Gives the bytes back, or leaves the queue. A second call for a ticket does nothing.
  void Release(const std::shared_ptr<Ticket>& ticket) KVPLANE_EXCLUDES(mutex_);

  uint64_t reserved_bytes() const KVPLANE_EXCLUDES(mutex_);

 private:
  bool FitsLocked(const Ticket& ticket) const KVPLANE_REQUIRES(mutex_);
  bool TryGrantLocked(Ticket& ticket) KVPLANE_REQUIRES(mutex_);
  void ReturnLocked(const Ticket& ticket) KVPLANE_REQUIRES(mutex_);
  std::vector<std::shared_ptr<Ticket>> GrantWaitingLocked() KVPLANE_REQUIRES(mutex_);

  const Shares shares_;
  mutable base::Mutex mutex_;
  uint64_t reserved_ KVPLANE_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, uint64_t> of_connections_ KVPLANE_GUARDED_BY(mutex_);  // who has nothing is not in it
  std::map<std::string, uint64_t> of_addresses_ KVPLANE_GUARDED_BY(mutex_);
  bool oversize_ KVPLANE_GUARDED_BY(mutex_) = false;  // an object beyond an address's share is on its way
  std::list<std::shared_ptr<Ticket>> waiting_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::store
