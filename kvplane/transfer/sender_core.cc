#include "kvplane/transfer/sender_core.h"

#include <algorithm>

#include "kvplane/base/log.h"
#include "kvplane/codec/profile_match.h"
#include "kvplane/transfer/peer_capabilities.h"

namespace kvplane::transfer {
namespace {

// Frames of the connection itself waiting for the wire; a peer that causes more without reading is cut off.
constexpr size_t kMaxControlFrames = 16384;

// The housekeeper looks at least this often, whatever it has been told.
constexpr base::Duration kHousekeepingInterval = std::chrono::seconds(1);

base::TimePoint Now() { return base::Clock::System().Now(); }

uint64_t RawBytes(const SendTransfer& transfer, uint32_t tokens) {
  return transfer.grid.geometry.bytes_per_token_layer() * tokens;
}

base::Status CheckQuality(const SendTransfer& transfer) {
  if (transfer.kv_quality >= transfer.least_quality) return base::Status::Ok();
  return base::FailedPrecondition("the KV was loaded with loss: quality {}, and the decode node takes {}",
                                  transfer.kv_quality, transfer.least_quality);
}

}  // namespace

SenderCore::SenderCore(std::unique_ptr<transport::Listener> listener, const KvSenderOptions& options)
    : listener_(std::move(listener)), options_(options) {}

base::Status SenderCore::Start() {
  KVPLANE_RETURN_IF_ERROR(StartThread(housekeeping_, [this] { Housekeep(); }));
  for (size_t i = 0; i < codec_threads(); ++i) {
    std::thread thread;
    KVPLANE_RETURN_IF_ERROR(StartThread(thread, [this] { Encode(); }));
    encoding_.push_back(std::move(thread));
  }
  return StartThread(accepting_, [this] { Accept(); });
}

void SenderCore::Stop() {
  listener_->Shutdown();
  if (accepting_.joinable()) accepting_.join();
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    while (!offers_.empty()) {
      const std::shared_ptr<SendTransfer> transfer = offers_.begin()->second;
      FinishLocked(transfer, base::Cancelled("the prefill node shut down"));
    }
    for (const auto& [number, link] : links_) {
      CloseLinkLocked(link, base::Cancelled("the prefill node shut down"));
    }
    wake_encoders_.NotifyAll();
  }
  for (std::thread& thread : encoding_) thread.join();
  {
    base::MutexLock lock(mutex_);
    drained_ = true;
    wake_housekeeper_.NotifyAll();
  }
  if (housekeeping_.joinable()) housekeeping_.join();
}

base::Status SenderCore::BindStrategies(KvOffer& offer, SendTransfer& transfer) {
  transfer.strategies.push_back(std::move(offer.strategy));
  for (codec::Strategy& other : offer.alternatives) transfer.strategies.push_back(std::move(other));
  if (transfer.strategies.size() > kMaxStrategiesPerOpen) {
    return base::InvalidArgument("{} strategies in one offer; {} are possible", transfer.strategies.size(),
                                 kMaxStrategiesPerOpen);
  }
  const KvDescriptor& descriptor = offer.descriptor;
  uint32_t group_heads = std::min(kTileGroupHeads, descriptor.geometry.kv_heads);
  for (const codec::Strategy& strategy : transfer.strategies) {
    KVPLANE_ASSIGN_OR_RETURN(transfer.codecs.emplace_back(), codecs_.Bind(strategy, offer.profile));
    transfer.strategy_texts.push_back(strategy.ToString());
    if (strategy.needs_all_heads()) {
      if (!descriptor.whole_model()) {
        return base::FailedPrecondition(
            "strategy \"{}\" codes all KV heads of a layer together; this transfer has {} of {}",
            strategy.ToString(), descriptor.geometry.kv_heads, descriptor.model_kv_heads);
      }
      group_heads = descriptor.geometry.kv_heads;
    }
    if (strategy.needs_profile()) transfer.profile = offer.profile;
  }
  if (transfer.profile != nullptr) {
    KVPLANE_RETURN_IF_ERROR(codec::CheckProfileMatches(*transfer.profile, descriptor.ModelGeometry(),
                                                       descriptor.model_fingerprint));
  }
  KVPLANE_ASSIGN_OR_RETURN(transfer.grid, TileGrid::Create(descriptor, group_heads));
  return base::Status::Ok();
}

base::Result<std::shared_ptr<SendTransfer>> SenderCore::Offer(KvOffer offer) {
  KVPLANE_RETURN_IF_ERROR(CheckTransferId(offer.transfer_id));
  auto transfer = std::make_shared<SendTransfer>();
  KVPLANE_RETURN_IF_ERROR(TileGrid::Create(offer.descriptor, 1).status());
  KVPLANE_RETURN_IF_ERROR(BindStrategies(offer, *transfer));
  KVPLANE_ASSIGN_OR_RETURN(transfer->pages,
                           PageTable::Create(offer.layers, transfer->grid, offer.first_page_head));
  transfer->id = std::move(offer.transfer_id);
  transfer->descriptor = offer.descriptor;
  transfer->deadline = offer.deadline;
  transfer->lease = offer.lease;
  transfer->expects_first_token = offer.expects_first_token;
  transfer->on_complete = std::move(offer.on_complete);
  transfer->posted.resize(offer.descriptor.geometry.layers);
  transfer->next_tile.resize(offer.descriptor.geometry.layers);

  base::MutexLock lock(mutex_);
  if (stopping_) return base::Unavailable("the sender is shutting down");
  if (offers_.size() >= options_.max_offers) {
    return base::ResourceExhausted("{} transfers are open, the limit of max_offers", offers_.size());
  }
  if (const EndedTransfer* end = FindEndedLocked(transfer->id); end != nullptr) {
    if (Now() < end->withdrawn_until) return end->status;
    ForgetEndLocked(transfer->id);
  }
  if (!offers_.emplace(transfer->id, transfer).second) {
    return base::InvalidArgument("transfer id \"{}\" is already offered", transfer->id);
  }
  transfer->sequence = next_sequence_++;
  deadlines_.emplace(std::pair(transfer->deadline, transfer->sequence), transfer);
  if (const auto found = waiting_.find(transfer->id); found != waiting_.end()) {
    const WaitingPull pull = found->second;
    waiting_.erase(found);
    pull.link->waiting.erase(pull.stream);
    AttachLocked(transfer, pull.link, pull.stream, pull.pull, pull.bytes_received);
  }
  wake_housekeeper_.NotifyAll();
  return transfer;
}

void SenderCore::PostLayer(const std::shared_ptr<SendTransfer>& transfer, uint32_t layer,
                           uint32_t first_token, uint32_t tokens) {
  base::MutexLock lock(mutex_);
  if (transfer->finished) return;
  const uint32_t total = transfer->grid.tokens;
  if (layer >= transfer->posted.size() || first_token != transfer->posted[layer] ||
      tokens > total - first_token) {
    AbortLocked(transfer, base::InvalidArgument("tokens [{}, +{}) of layer {} posted out of order",
                                                first_token, tokens, layer));
    return;
  }
  if (transfer->posted_bytes == 0) transfer->first_post = Now();
  transfer->posted[layer] += tokens;
  transfer->posted_bytes += RawBytes(*transfer, tokens);
  backlog_bytes_ += RawBytes(*transfer, tokens);
  if (tokens > 0 && transfer->posted[layer] == total &&
      ++transfer->layers_posted == transfer->posted.size()) {
    transfer->prefill_end = Now();
    StartLeaseLocked(transfer);
  }
  UpdateRunnableLocked(transfer);
}

void SenderCore::PostFirstToken(const std::shared_ptr<SendTransfer>& transfer, FirstToken token) {
  base::MutexLock lock(mutex_);
  if (transfer->finished || transfer->first_token.has_value()) return;
  transfer->first_token = std::move(token);
  StartLeaseLocked(transfer);
  if (transfer->link == nullptr) return;
  PushLocked(transfer->link, EncodeFrame(transfer->stream, FirstTokenFrame{*transfer->first_token}),
             transfer);
  MaybeDoneLocked(transfer);
}

void SenderCore::LowerQuality(const std::shared_ptr<SendTransfer>& transfer, uint16_t thousandths) {
  base::MutexLock lock(mutex_);
  transfer->kv_quality = std::min(transfer->kv_quality, thousandths);
  if (transfer->link == nullptr) return;  // whoever comes hears of it then
  if (base::Status status = CheckQuality(*transfer); !status.ok()) AbortLocked(transfer, std::move(status));
}

base::Status SenderCore::UseStrategy(const std::shared_ptr<SendTransfer>& transfer, size_t number) {
  if (number >= transfer->strategies.size()) {
    return base::InvalidArgument("strategy {} of a transfer that has {}", number,
                                 transfer->strategies.size());
  }
  base::MutexLock lock(mutex_);
  transfer->current = static_cast<uint8_t>(number);
  return base::Status::Ok();
}

void SenderCore::Cancel(const std::shared_ptr<SendTransfer>& transfer, std::string_view reason) {
  base::MutexLock lock(mutex_);
  AbortLocked(transfer, base::Cancelled("{}", reason));
}

uint64_t SenderCore::backlog_bytes() const {
  base::MutexLock lock(mutex_);
  return backlog_bytes_;
}

void SenderCore::AttachLocked(const std::shared_ptr<SendTransfer>& transfer,
                              const std::shared_ptr<SenderLink>& link, uint32_t stream, const PullFrame& pull,
                              uint64_t bytes_received) {
  EndLeaseLocked(*transfer);
  transfer->link = link;
  transfer->stream = stream;
  transfer->asked = Now();
  transfer->turn = TurnOf(DemandOf(*transfer), link->turn_pace);
  transfer->bytes_wire += bytes_received;
  if (link->streams.empty()) ++busy_links_;
  link->streams[stream] = transfer;
  transfer->least_quality = pull.least_quality;
  base::Status status = CheckSameKv(transfer->descriptor, pull.descriptor);
  if (status.ok()) status = CheckQuality(*transfer);
  for (const codec::Strategy& strategy : transfer->strategies) {
    if (!status.ok()) break;
    status = CheckPeer(link->peer, strategy, transfer->grid,
                       strategy.needs_profile() ? transfer->profile.get() : nullptr);
    if (status.ok() && strategy.lossy() && !pull.accept_lossy) {
      status = base::FailedPrecondition("strategy \"{}\" is lossy and the decode node wants exact KV",
                                        strategy.ToString());
    }
  }
  if (!status.ok()) {
    AbortLocked(transfer, std::move(status));
    return;
  }
  OpenFrame open;
  open.tokens = transfer->grid.tokens;
  open.group_heads = static_cast<uint16_t>(transfer->grid.group_heads);
  for (const codec::Strategy& strategy : transfer->strategies) {
    open.strategies.emplace_back(strategy.side(tensor::Side::kKey).ToString(),
                                 strategy.side(tensor::Side::kValue).ToString());
  }
  if (transfer->profile != nullptr) open.profile = transfer->profile->id();
  PushLocked(link, EncodeFrame(stream, open), transfer);
  if (transfer->first_token.has_value()) {
    PushLocked(link, EncodeFrame(stream, FirstTokenFrame{*transfer->first_token}), transfer);
  }
  UpdateRunnableLocked(transfer);
}

// DONE once everything there is to send has been written. After a resend it is said again.
void SenderCore::MaybeDoneLocked(const std::shared_ptr<SendTransfer>& transfer) {
  if (transfer->finished || transfer->link == nullptr) return;
  if (transfer->layers_posted < transfer->posted.size() || transfer->runnable.has_value()) return;
  if (transfer->encoding > 0 || transfer->queued > 0) return;
  if (transfer->expects_first_token && !transfer->first_token.has_value()) return;
  if (transfer->done_at == transfer->tiles_sent) return;
  transfer->done_at = transfer->tiles_sent;
  DoneFrame done;
  done.tiles_sent = transfer->tiles_sent;
  done.tiles_retried = transfer->tiles_retried;
  done.encode = transfer->encode;
  done.send = transfer->send;
  done.since_prefill = Now() - transfer->prefill_end;
  done.kv_quality = transfer->kv_quality;
  PushLocked(transfer->link, EncodeFrame(transfer->stream, done), transfer);
}

void SenderCore::PushLocked(const std::shared_ptr<SenderLink>& link, std::vector<std::byte> frame,
                            std::shared_ptr<SendTransfer> transfer) {
  if (link->closed) return;
  if (link->control.size() >= kMaxControlFrames) {
    // Only the stream is stopped here; its reader then closes the link, outside whoever calls this.
    link->stream->Shutdown();
    return;
  }
  link->control.push_back({std::move(frame), std::move(transfer)});
  link->wake_writer.NotifyAll();
}

void SenderCore::AbortLocked(const std::shared_ptr<SendTransfer>& transfer, base::Status status) {
  if (transfer->finished) return;
  if (transfer->link != nullptr) {
    PushLocked(transfer->link, EncodeFrame(transfer->stream, AbortFrame{status}), transfer);
  }
  FinishLocked(transfer, std::move(status));
}

void SenderCore::FinishLocked(const std::shared_ptr<SendTransfer>& transfer, base::Status status) {
  if (transfer->finished) return;
  transfer->finished = true;
  TransferOutcome& outcome = transfer->outcome;
  outcome.status = std::move(status);
  if (transfer->posted_bytes > 0) outcome.times.wall = Now() - transfer->first_post;
  EndLeaseLocked(*transfer);
  RememberEndLocked(
      transfer->id,
      {outcome.status.ok() ? base::NotFound("transfer \"{}\" has already been delivered", transfer->id)
                           : outcome.status.Annotate("the transfer has ended")});
  offers_.erase(transfer->id);
  deadlines_.erase({transfer->deadline, transfer->sequence});
  backlog_bytes_ -= transfer->posted_bytes;
  transfer->resend.clear();
  UpdateRunnableLocked(transfer);
  if (const std::shared_ptr<SenderLink> link = transfer->link; link != nullptr) {
    link->streams.erase(transfer->stream);
    if (link->streams.empty()) {
      --busy_links_;
      wake_encoders_.NotifyAll();  // the others' share of the staging has grown
    }
    size_t released = 0;
    for (auto at = link->ready.begin(); at != link->ready.end();) {
      if (at->second.transfer == transfer) {
        released += at->second.body.size();
        at = link->ready.erase(at);
      } else {
        ++at;
      }
    }
    if (link->ready.empty()) link->backlogged_since.reset();
    ReleaseStagingLocked(*link, released);
  }
  if (transfer->encoding == 0) QueueCallbackLocked(transfer);
}

void SenderCore::QueueCallbackLocked(const std::shared_ptr<SendTransfer>& transfer) {
  TransferOutcome& outcome = transfer->outcome;
  // A transfer that ended before its first tile names what it would have begun with.
  outcome.strategy = DescribeUsed(transfer->strategy_texts, std::max<uint32_t>(transfer->used_strategies, 1));
  outcome.kv_quality = transfer->kv_quality;
  outcome.bytes_raw = transfer->bytes_raw;
  // An acknowledgement has already filled in what both ends agreed on.
  if (!outcome.status.ok()) outcome.bytes_wire = transfer->bytes_wire;
  outcome.tiles = transfer->tiles_distinct;
  outcome.tiles_retried = transfer->tiles_retried;
  outcome.times.encode = transfer->encode;
  outcome.times.send = transfer->send;
  if (transfer->on_complete) callbacks_.emplace_back(std::move(transfer->on_complete), std::move(outcome));
  wake_housekeeper_.NotifyAll();
}

// Ends what has run out of time; returns when to look again.
base::TimePoint SenderCore::ExpireLocked(base::TimePoint now) {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now) {
    const std::shared_ptr<SendTransfer> transfer = deadlines_.begin()->second;
    AbortLocked(transfer, base::DeadlineExceeded(
                              "the transfer's deadline passed ({})",
                              transfer->link == nullptr ? "nobody pulled it" : "tiles still to deliver"));
  }
  ExpireLeasesLocked(now);
  base::TimePoint next = now + kHousekeepingInterval;
  if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first.first);
  if (!leases_.empty()) next = std::min(next, leases_.begin()->first.first);
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    const WaitingPull& pull = at->second;
    if (pull.expires > now) {
      next = std::min(next, pull.expires);
      ++at;
      continue;
    }
    const AbortFrame abort{base::DeadlineExceeded("transfer \"{}\" was never offered here", at->first)};
    PushLocked(pull.link, EncodeFrame(pull.stream, abort));
    pull.link->waiting.erase(pull.stream);
    at = waiting_.erase(at);
  }
  return next;
}

void SenderCore::Housekeep() {
  while (true) {
    std::vector<std::pair<OnComplete, TransferOutcome>> callbacks;
    std::vector<std::shared_ptr<SenderLink>> dead;
    {
      base::MutexLock lock(mutex_);
      const base::TimePoint next = ExpireLocked(Now());
      if (callbacks_.empty() && dead_links_.empty()) {
        if (drained_ && links_.empty()) return;
        wake_housekeeper_.WaitUntil(mutex_, next);
      }
      callbacks.swap(callbacks_);
      dead.swap(dead_links_);
    }
    for (auto& [callback, outcome] : callbacks) callback(std::move(outcome));
    for (const std::shared_ptr<SenderLink>& link : dead) {
      if (link->reader.joinable()) link->reader.join();
      if (link->writer.joinable()) link->writer.join();
    }
  }
}

}  // namespace kvplane::transfer
