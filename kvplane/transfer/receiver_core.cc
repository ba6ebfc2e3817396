#include "kvplane/transfer/receiver_core.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/transfer/peer_capabilities.h"

namespace kvplane::transfer {
namespace {

constexpr size_t kMaxTransfers = 65536;
constexpr size_t kMaxLinks = 1024;  // prefill nodes in use at a time

// Frames waiting for the wire; a peer that causes more without reading is cut off.
constexpr size_t kMaxControlFrames = 65536;

// The housekeeper looks at least this often, whatever it has been told.
constexpr base::Duration kHousekeepingInterval = std::chrono::seconds(1);

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

ReceiverCore::ReceiverCore(transport::Transport& transport, const KvReceiverOptions& options)
    : transport_(transport), options_(options) {}

base::Status ReceiverCore::Start() {
  KVPLANE_RETURN_IF_ERROR(StartThread(housekeeping_, [this] { Housekeep(); }));
  for (size_t i = 0; i < options_.codec_threads; ++i) {
    std::thread thread;
    KVPLANE_RETURN_IF_ERROR(StartThread(thread, [this] { Decode(); }));
    decoding_.push_back(std::move(thread));
  }
  return base::Status::Ok();
}

void ReceiverCore::Stop() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    while (!transfers_.empty()) {
      const std::shared_ptr<RecvTransfer> transfer = *transfers_.begin();
      FinishLocked(transfer, base::Cancelled("the decode node shut down"));
    }
    while (!links_.empty()) {
      const std::shared_ptr<ReceiverLink> link = links_.begin()->second;
      CloseLinkLocked(link, base::Cancelled("the decode node shut down"));
    }
    wake_decoders_.NotifyAll();
  }
  for (std::thread& thread : decoding_) thread.join();
  {
    base::MutexLock lock(mutex_);
    drained_ = true;
    wake_housekeeper_.NotifyAll();
  }
  if (housekeeping_.joinable()) housekeeping_.join();
}

base::Result<std::shared_ptr<RecvTransfer>> ReceiverCore::Pull(KvPull pull) {
  KVPLANE_RETURN_IF_ERROR(CheckTransferId(pull.transfer_id));
  auto transfer = std::make_shared<RecvTransfer>();
  // The sender chooses the head groups; until then the grid serves to check descriptor and pages.
  KVPLANE_ASSIGN_OR_RETURN(transfer->grid,
                           TileGrid::Create(pull.descriptor, pull.descriptor.geometry.kv_heads));
  KVPLANE_ASSIGN_OR_RETURN(transfer->pages,
                           PageTable::Create(pull.layers, transfer->grid, pull.first_page_head));
  transfer->endpoint = std::move(pull.endpoint);
  transfer->id = std::move(pull.transfer_id);
  transfer->descriptor = pull.descriptor;
  transfer->deadline = pull.deadline;
  transfer->accept_lossy = pull.accept_lossy;
  transfer->least_quality =
      pull.accept_lossy ? std::min(pull.least_quality, tensor::kExactQuality) : tensor::kExactQuality;
  transfer->on_first_token = std::move(pull.on_first_token);
  transfer->on_complete = std::move(pull.on_complete);
  transfer->asked = transfer->last_arrival = transfer->last_decode = Now();

  base::MutexLock lock(mutex_);
  if (stopping_) return base::Unavailable("the receiver is shutting down");
  if (transfers_.size() >= kMaxTransfers) {
    return base::ResourceExhausted("{} transfers are open, the limit", transfers_.size());
  }
  if (links_.size() >= kMaxLinks && !links_.contains(transfer->endpoint)) {
    return base::ResourceExhausted("{} prefill nodes are connected, the limit", links_.size());
  }
  transfers_.insert(transfer);
  if (base::Status status = AttachLocked(transfer); !status.ok()) {
    transfers_.erase(transfer);
    return status;
  }
  wake_housekeeper_.NotifyAll();
  return transfer;
}

void ReceiverCore::Cancel(const std::shared_ptr<RecvTransfer>& transfer, std::string_view reason) {
  base::MutexLock lock(mutex_);
  AbortLocked(transfer, base::Cancelled("{}", reason));
}

uint32_t ReceiverCore::layers_ready(const RecvTransfer& transfer) const {
  base::MutexLock lock(mutex_);
  return transfer.layers_ready;
}

void ReceiverCore::PushLocked(ReceiverLink& link, std::vector<std::byte> frame) {
  if (link.closed) return;
  if (link.control.size() >= kMaxControlFrames) {
    // Only the stream is stopped here; its reader then closes the link, outside whoever calls this.
    link.stream->Shutdown();
    return;
  }
  link.control.push_back(std::move(frame));
  link.wake_writer.NotifyAll();
}

void ReceiverCore::SendLocked(RecvTransfer& transfer, std::vector<std::byte> frame) {
  if (transfer.link == nullptr || transfer.stream == 0) return;
  transfer.bytes_wire += frame.size();
  PushLocked(*transfer.link, std::move(frame));
}

void ReceiverCore::AbortLocked(const std::shared_ptr<RecvTransfer>& transfer, base::Status status) {
  if (transfer->finished) return;
  SendLocked(*transfer, EncodeFrame(transfer->stream, AbortFrame{status}));
  FinishLocked(transfer, std::move(status));
}

void ReceiverCore::FinishLocked(const std::shared_ptr<RecvTransfer>& transfer, base::Status status) {
  if (transfer->finished) return;
  transfer->finished = true;
  transfer->outcome.status = std::move(status);
  transfer->outcome.times.wall = Now() - transfer->asked;
  transfers_.erase(transfer);
  if (transfer->link != nullptr) {
    transfer->link->streams.erase(transfer->stream);
    std::erase(transfer->link->waiting, transfer);
  }
  if (transfer->decoding == 0) QueueCompletionLocked(transfer);
}

void ReceiverCore::QueueCompletionLocked(const std::shared_ptr<RecvTransfer>& transfer) {
  TransferOutcome& outcome = transfer->outcome;
  outcome.strategy = DescribeUsed(transfer->strategy_texts, std::max<uint32_t>(transfer->used_strategies, 1));
  outcome.bytes_raw = transfer->bytes_raw;
  outcome.bytes_wire = transfer->bytes_wire;
  outcome.tiles = transfer->tiles_decoded;
  outcome.tiles_retried = transfer->tiles_retried;
  outcome.times.decode = transfer->decode;
  if (transfer->on_complete) {
    callbacks_.push_back([callback = std::move(transfer->on_complete),
                          result = std::move(outcome)]() mutable { callback(std::move(result)); });
  }
  transfer->on_first_token = nullptr;
  wake_housekeeper_.NotifyAll();
}

// Complete when every tile is in its pages and the sender's last word covers all tiles that came.
void ReceiverCore::MaybeCompleteLocked(const std::shared_ptr<RecvTransfer>& transfer) {
  if (transfer->finished || transfer->tiles_left > 0 || !transfer->done.has_value()) return;
  if (transfer->done->tiles_sent != transfer->tiles_received) return;
  TransferTimes& times = transfer->outcome.times;
  times.encode = transfer->done->encode;
  times.send = transfer->done->send;
  // The sender's clock up to DONE, ours from there to the last tile (often before it).
  const base::Duration after_done = transfer->last_decode - transfer->done_at;
  times.exposed = std::max(transfer->done->since_prefill + after_done, base::Duration::zero());
  AckFrame ack;
  ack.decode = transfer->decode;
  ack.wall = Now() - transfer->asked;
  ack.exposed = times.exposed;
  ack.bytes_wire = transfer->bytes_wire + EncodeFrame(transfer->stream, ack).size();
  SendLocked(*transfer, EncodeFrame(transfer->stream, ack));
  FinishLocked(transfer, base::Status::Ok());
}

// Pings a connection that has been silent for half the stall timeout while transfers need it; ends it when
// the ping is not answered in the other half.
base::TimePoint ReceiverCore::PingLocked(const std::shared_ptr<ReceiverLink>& link, base::TimePoint now) {
  const base::Duration half = options_.stall_timeout / 2;
  if (!link->ready || link->streams.empty()) return now + kHousekeepingInterval;
  const bool pinged = link->last_ping > link->last_arrival;
  if (pinged && now - link->last_ping >= half) {
    CloseLinkLocked(link, base::Unavailable("{} has been silent for {:.1f} s", link->endpoint,
                                            base::ToSeconds(now - link->last_arrival)));
    return now + kHousekeepingInterval;
  }
  if (!pinged && now - link->last_arrival >= half) {
    link->last_ping = now;
    PushLocked(*link, EncodeFrame(0, PingFrame{static_cast<uint64_t>(now.time_since_epoch().count())}));
  }
  return std::max(link->last_arrival, link->last_ping) + half;
}

// Ends what has run out of time; returns when to look again.
base::TimePoint ReceiverCore::ExpireLocked(base::TimePoint now) {
  base::TimePoint next = now + kHousekeepingInterval;
  std::vector<std::shared_ptr<RecvTransfer>> late;
  for (const std::shared_ptr<RecvTransfer>& transfer : transfers_) {
    base::TimePoint limit = transfer->deadline;
    if (transfer->opened) {
      const base::TimePoint progress = std::max(transfer->last_arrival, transfer->link->last_tile);
      limit = std::min(limit, progress + options_.stall_timeout);
    }
    if (limit <= now) late.push_back(transfer);
    next = std::min(next, limit);
  }
  for (const std::shared_ptr<RecvTransfer>& transfer : late) {
    const char* state = !transfer->opened ? "the prefill node has not offered it" : "tiles are missing";
    if (transfer->deadline <= now) {
      AbortLocked(transfer, base::DeadlineExceeded("the transfer's deadline passed ({})", state));
    } else {
      AbortLocked(transfer, base::Unavailable("stalled: nothing arrived for {:.1f} s",
                                              base::ToSeconds(options_.stall_timeout)));
    }
  }
  std::vector<std::shared_ptr<ReceiverLink>> links;
  for (const auto& [endpoint, link] : links_) links.push_back(link);
  for (const std::shared_ptr<ReceiverLink>& link : links) next = std::min(next, PingLocked(link, now));
  return late.empty() ? next : now;
}

void ReceiverCore::Housekeep() {
  while (true) {
    std::vector<std::function<void()>> callbacks;
    std::vector<std::shared_ptr<ReceiverLink>> dead;
    {
      base::MutexLock lock(mutex_);
      const base::TimePoint next = ExpireLocked(Now());
      if (callbacks_.empty() && dead_links_.empty()) {
        if (drained_ && links_alive_ == 0) return;
        wake_housekeeper_.WaitUntil(mutex_, next);
      }
      callbacks.swap(callbacks_);
      dead.swap(dead_links_);
      links_alive_ -= dead.size();
    }
    for (const std::function<void()>& callback : callbacks) callback();
    for (const std::shared_ptr<ReceiverLink>& link : dead) link->reader.join();
  }
}

}  // namespace kvplane::transfer
