#include "kvplane/engine/transfers.h"

#include <utility>

namespace kvplane::engine {

Transfers::Transfers(const model::Model& model, transfer::KvSender* sender, transfer::KvReceiver* receiver,
                     std::shared_ptr<Inbox> inbox, std::shared_ptr<KvArena> arena, uint16_t least_quality)
    : geometry_(model.kv_geometry()),
      fingerprint_(model.fingerprint()),
      sender_(sender),
      receiver_(receiver),
      inbox_(std::move(inbox)),
      arena_(std::move(arena)),
      least_quality_(least_quality) {}

transfer::KvDescriptor Transfers::Describe(const RequestState& request) const {
  return {.geometry = geometry_,
          .model_fingerprint = fingerprint_,
          .token_hash = transfer::HashTokens(request.request.prompt),
          .tokens = request.prompt_tokens()};
}

transfer::OnComplete Transfers::PostCompletion(base::RequestId id) const {
  return [inbox = inbox_, arena = arena_, id](transfer::TransferOutcome outcome) {
    inbox->Post(TransferDoneMessage{id, std::move(outcome)});
  };
}

base::Status Transfers::Offer(RequestState& request, base::TimePoint deadline, base::Duration lease) {
  auto session = sender_->Offer({.transfer_id = request.request.remote_decode->transfer_id,
                                 .descriptor = Describe(request),
                                 .strategy = request.strategy,
                                 .profile = request.profile,
                                 .layers = request.pages->layers(),
                                 .deadline = deadline,
                                 .lease = lease,
                                 .on_complete = PostCompletion(request.id)});
  if (!session.ok()) return session.status();
  request.send = *std::move(session);
  request.transfer_open = true;
  return base::Status::Ok();
}

base::Status Transfers::Pull(RequestState& request, base::TimePoint deadline) {
  const RemotePrefill& remote = *request.request.remote_prefill;
  auto session = receiver_->Pull({.endpoint = remote.endpoint,
                                  .transfer_id = remote.transfer_id,
                                  .descriptor = Describe(request),
                                  .layers = request.pages->layers(),
                                  .deadline = deadline,
                                  .accept_lossy = remote.accept_lossy && request.request.accept_lossy,
                                  .least_quality = least_quality_,
                                  .on_first_token =
                                      [inbox = inbox_, id = request.id](transfer::FirstToken token) {
                                        inbox->Post(FirstTokenMessage{id, std::move(token)});
                                      },
                                  .on_complete = PostCompletion(request.id)});
  if (!session.ok()) return session.status();
  request.receive = *std::move(session);
  request.transfer_open = true;
  return base::Status::Ok();
}

}  // namespace kvplane::engine
