// SenderCore: KV that nobody fetches: withdrawn by who asked for it, or dropped when its lease ends.
//
//     offered --- PULL ------------------------> fetched --- ACK, error, deadline ---> ended
//        |  \                                      |                                    ^ ^
//        |   +-- Withdraw -------------------------|------------------------------------+ |
//        |                                         +-- Withdraw: ABORT to the puller -----+
//        +-- complete: lease starts --- ends ---------------------------------------------+
//
// All of it happens under the lock, so a PULL and a Withdraw() that race are ordered: one finds what the
// other has left. Pages are given back by on_complete, after encoders have left them.
#include <algorithm>
#include <utility>

#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/sender_core.h"

namespace kvplane::transfer {
namespace {

// Ends of transfers remembered for late PULLs and offers.
constexpr size_t kMaxEnded = 1024;

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

base::Result<Withdrawal> SenderCore::Withdraw(std::string_view id) {
  KVPLANE_RETURN_IF_ERROR(CheckTransferId(id));
  const base::Status status = base::Cancelled("transfer \"{}\" was withdrawn", id);
  base::MutexLock lock(mutex_);
  Withdrawal found = Withdrawal::kUnknown;
  if (const auto offer = offers_.find(id); offer != offers_.end()) {
    const std::shared_ptr<SendTransfer> transfer = offer->second;
    found = transfer->link == nullptr ? Withdrawal::kWithdrawn : Withdrawal::kAborted;
    transfer->outcome.offer_end = OfferEnd::kWithdrawn;
    AbortLocked(transfer, status);
    ForgetEndLocked(id);
  } else if (FindEndedLocked(id) != nullptr) {
    return Withdrawal::kEnded;
  } else if (const auto waiting = waiting_.find(id); waiting != waiting_.end()) {
    const WaitingPull pull = waiting->second;
    waiting_.erase(waiting);
    pull.link->waiting.erase(pull.stream);
    RefusePullLocked(pull.link, pull.stream, status);
  }
  RememberEndLocked(id, {status, Now() + kWithdrawnMemory});
  return found;
}

void SenderCore::StartLeaseLocked(const std::shared_ptr<SendTransfer>& transfer) {
  if (!transfer->lease.has_value() || transfer->link != nullptr || transfer->lease_end.has_value()) return;
  if (transfer->layers_posted < transfer->posted.size()) return;
  if (transfer->expects_first_token && !transfer->first_token.has_value()) return;
  transfer->lease_end = Now() + *transfer->lease;
  leases_.emplace(std::pair(*transfer->lease_end, transfer->sequence), transfer);
  wake_housekeeper_.NotifyAll();
}

void SenderCore::EndLeaseLocked(SendTransfer& transfer) {
  if (!transfer.lease_end.has_value()) return;
  leases_.erase({*transfer.lease_end, transfer.sequence});
  transfer.lease_end.reset();
}

void SenderCore::ExpireLeasesLocked(base::TimePoint now) {
  while (!leases_.empty() && leases_.begin()->first.first <= now) {
    const std::shared_ptr<SendTransfer> transfer = leases_.begin()->second;
    transfer->outcome.offer_end = OfferEnd::kLeaseExpired;
    FinishLocked(transfer, base::DeadlineExceeded("nobody asked for the KV within {:.3g} s of its completion",
                                                  base::ToSeconds(*transfer->lease)));
  }
}

void SenderCore::RememberEndLocked(std::string_view id, EndedTransfer end) {
  if (!ended_.emplace(id, std::move(end)).second) return;
  ended_order_.emplace_back(id);
  if (ended_order_.size() > kMaxEnded) {
    ended_.erase(ended_order_.front());
    ended_order_.pop_front();
  }
}

const EndedTransfer* SenderCore::FindEndedLocked(std::string_view id) const {
  const auto found = ended_.find(id);
  return found == ended_.end() ? nullptr : &found->second;
}

void SenderCore::ForgetEndLocked(std::string_view id) {
  const auto found = ended_.find(id);
  if (found == ended_.end()) return;
  ended_.erase(found);
  ended_order_.erase(std::find(ended_order_.begin(), ended_order_.end(), id));
}

}  // namespace kvplane::transfer
