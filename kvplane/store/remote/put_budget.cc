#include "kvplane/store/remote/put_budget.h"

#include "kvplane/base/check.h"

namespace kvplane::store {

bool PutBudget::Acquire(const std::shared_ptr<Ticket>& ticket) {
  KVPLANE_CHECK(ticket->bytes <= largest());
  base::MutexLock lock(mutex_);
  if (ticket->released) return false;  // given up before it was asked for
  waiting_.push_back(ticket);
  const std::vector<std::shared_ptr<Ticket>> granted = GrantWaitingLocked();
  // Nothing was released since the queue was looked at last, so only the new ticket can have been granted.
  KVPLANE_CHECK(granted.empty() || (granted.size() == 1 && granted[0] == ticket));
  return !granted.empty();
}

void PutBudget::Release(const std::shared_ptr<Ticket>& ticket) {
  std::vector<std::shared_ptr<Ticket>> granted;
  {
    base::MutexLock lock(mutex_);
    if (ticket->released) return;
    ticket->released = true;
    if (ticket->granted) {
      reserved_ -= ticket->bytes;
      const auto found = reserved_by_connection_.find(ticket->connection);
      found->second -= ticket->bytes;
      if (found->second == 0) reserved_by_connection_.erase(found);
    } else {
      waiting_.remove(ticket);
    }
    granted = GrantWaitingLocked();
  }
  for (const std::shared_ptr<Ticket>& next : granted) {
    if (const std::shared_ptr<Receiver> receiver = next->receiver.lock()) {
      receiver->OnPutGranted(next);
    } else {
      Release(next);  // the connection is gone and did not say so
    }
  }
}

uint64_t PutBudget::reserved_bytes() const {
  base::MutexLock lock(mutex_);
  return reserved_;
}

// False: nobody behind this ticket may be granted before it.
bool PutBudget::TryGrantLocked(Ticket& ticket) {
  const auto found = reserved_by_connection_.find(ticket.connection);
  const uint64_t of_connection = found == reserved_by_connection_.end() ? 0 : found->second;
  if (ticket.bytes > connection_bytes_ - of_connection) return true;  // its own fault: the next may try
  if (ticket.bytes > total_bytes_ - reserved_) return false;
  reserved_ += ticket.bytes;
  reserved_by_connection_[ticket.connection] = of_connection + ticket.bytes;
  ticket.granted = true;
  return true;
}

std::vector<std::shared_ptr<PutBudget::Ticket>> PutBudget::GrantWaitingLocked() {
  std::vector<std::shared_ptr<Ticket>> granted;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    if (!TryGrantLocked(**at)) break;
    if ((*at)->granted) {
      granted.push_back(*at);
      at = waiting_.erase(at);
    } else {
      ++at;
    }
  }
  return granted;
}

}  // namespace kvplane::store
