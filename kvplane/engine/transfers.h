// Transfers: opens the two halves of a KV transfer for a request and routes what they report into the inbox.
//
// Callbacks run on threads of the sender or receiver; all they do is post. They hold the arena, so that pages
// outlive every access even when the engine is destroyed first. Thread safety: none; the engine's thread owns
// it.
#pragma once

#include <cstdint>
#include <memory>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/engine/inbox.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/engine/request_state.h"
#include "kvplane/model/model.h"

namespace kvplane::engine {

class Transfers {
 public:
  // `least_quality`: of KV that this node takes from others (KvPull).
  Transfers(const model::Model& model, transfer::KvSender* sender, transfer::KvReceiver* receiver,
            std::shared_ptr<Inbox> inbox, std::shared_ptr<KvArena> arena, uint16_t least_quality);

  bool can_send() const { return sender_ != nullptr; }
  bool can_receive() const { return receiver_ != nullptr; }

  // Offers the prompt's KV, whose pages exist; layers are posted later. On success transfer_open is set and
  // one TransferDoneMessage will come.
  base::Status Offer(RequestState& request, base::TimePoint deadline, base::Duration lease);
  // Asks for the prompt's KV, whose pages exist. On success transfer_open is set; at most one
  // FirstTokenMessage and then one TransferDoneMessage will come.
  base::Status Pull(RequestState& request, base::TimePoint deadline);

 private:
  transfer::KvDescriptor Describe(const RequestState& request) const;
  transfer::OnComplete PostCompletion(base::RequestId id) const;

  tensor::KvGeometry geometry_;
  transfer::Digest fingerprint_;
  transfer::KvSender* sender_;
  transfer::KvReceiver* receiver_;
  std::shared_ptr<Inbox> inbox_;
  std::shared_ptr<KvArena> arena_;
  uint16_t least_quality_;
};

}  // namespace kvplane::engine
