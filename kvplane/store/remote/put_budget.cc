#include "kvplane/store/remote/put_budget.h"

#include "kvplane/base/check.h"

namespace kvplane::store {
namespace {

// `held`: what its owner has already. An object beyond the share goes alone.
bool FitsShare(uint64_t held, uint64_t bytes, uint64_t share) {
  return bytes > share ? held == 0 : held <= share - bytes;
}

template <typename Map, typename Key>
uint64_t HeldBy(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? 0 : found->second;
}

template <typename Map, typename Key>
void Subtract(Map& map, const Key& key, uint64_t bytes) {
  const auto found = map.find(key);
  found->second -= bytes;
  if (found->second == 0) map.erase(found);
}

}  // namespace

bool PutBudget::Acquire(const std::shared_ptr<Ticket>& ticket) {
  KVPLANE_CHECK(ticket->bytes <= largest());
  base::MutexLock lock(mutex_);
  if (ticket->released) return false;  // given up before it was asked for
  // Those that wait have been tried since something was released last.
  if (TryGrantLocked(*ticket)) return true;
  waiting_.push_back(ticket);
  return false;
}

void PutBudget::Release(const std::shared_ptr<Ticket>& ticket) {
  std::vector<std::shared_ptr<Ticket>> granted;
  {
    base::MutexLock lock(mutex_);
    if (ticket->released) return;
    ticket->released = true;
    if (ticket->granted) {
      ReturnLocked(*ticket);
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

bool PutBudget::FitsLocked(const Ticket& ticket) const {
  const uint64_t bytes = ticket.bytes;
  if (reserved_ == 0) return true;
  const uint64_t left = shares_.total - reserved_;
  if (bytes > left) return false;
  const uint64_t of_address = HeldBy(of_addresses_, ticket.address);
  if (!FitsShare(HeldBy(of_connections_, ticket.connection), bytes, shares_.of_connection) ||
      !FitsShare(of_address, bytes, shares_.of_address)) {
    return false;
  }
  if (bytes > shares_.of_address) return !oversize_ && left - bytes >= shares_.of_address / 2;
  return of_address + bytes <= left - bytes;
}

bool PutBudget::TryGrantLocked(Ticket& ticket) {
  if (!FitsLocked(ticket)) return false;
  reserved_ += ticket.bytes;
  of_connections_[ticket.connection] += ticket.bytes;
  of_addresses_[ticket.address] += ticket.bytes;
  oversize_ = oversize_ || ticket.bytes > shares_.of_address;
  ticket.granted = true;
  return true;
}

void PutBudget::ReturnLocked(const Ticket& ticket) {
  reserved_ -= ticket.bytes;
  Subtract(of_connections_, ticket.connection, ticket.bytes);
  Subtract(of_addresses_, ticket.address, ticket.bytes);
  if (ticket.bytes > shares_.of_address) oversize_ = false;
}

std::vector<std::shared_ptr<PutBudget::Ticket>> PutBudget::GrantWaitingLocked() {
  std::vector<std::shared_ptr<Ticket>> granted;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    if (TryGrantLocked(**at)) {
      granted.push_back(*at);
      at = waiting_.erase(at);
    } else {
      ++at;
    }
  }
  return granted;
}

}  // namespace kvplane::store
