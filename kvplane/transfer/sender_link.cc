// SenderCore: connections of decode nodes and the frames they send.
#include <algorithm>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/sender_core.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::transfer {
namespace {

// Connections served at a time; more are closed at once.
constexpr size_t kMaxLinks = 1024;

// Of these, from one address: one peer that opens connections must not lock out the others.
constexpr size_t kMaxLinksPerHost = 128;

// PULLs waiting for their offer: all connections together, and of one.
constexpr size_t kMaxWaitingPulls = 4096;
constexpr size_t kMaxWaitingPullsPerLink = 1024;
constexpr base::Duration kMaxPatience = std::chrono::hours(1);

// A new connection must say HELLO within this time.
constexpr base::Duration kHelloTimeout = std::chrono::seconds(5);

// A connection that is silent for this long is closed. Decode nodes PING while they wait for something.
constexpr base::Duration kIdleTimeout = std::chrono::minutes(15);

// Pause after an accept that failed for a reason of this machine.
constexpr base::Duration kAcceptPause = std::chrono::milliseconds(200);

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

void SenderCore::Accept() {
  while (true) {
    auto stream = listener_->Accept(Now() + std::chrono::hours(1));
    if (stream.ok()) {
      if (const base::Status status = AddLink(*std::move(stream)); !status.ok()) refusals_.Note(status);
    } else if (stream.status().code() == base::StatusCode::kCancelled) {
      return;
    } else if (stream.status().code() != base::StatusCode::kDeadlineExceeded) {
      base::Log(base::LogLevel::kError, "accept: {}", stream.status().ToString());
      base::Clock::System().SleepUntil(Now() + kAcceptPause);
    }
  }
}

base::Status SenderCore::AddLink(std::unique_ptr<transport::Stream> stream) {
  auto link = std::make_shared<SenderLink>();
  link->stream = std::move(stream);
  base::MutexLock lock(mutex_);
  link->host = transport::HostOfPeer(link->stream->peer());
  const auto same_host = [&](const auto& other) { return other.second->host == link->host; };
  if (links_.size() >= kMaxLinks ||
      std::count_if(links_.begin(), links_.end(), same_host) >= std::ptrdiff_t{kMaxLinksPerHost}) {
    return base::ResourceExhausted("{}: {} connections are open (limits: {}, {} from one address)",
                                   link->stream->peer(), links_.size(), kMaxLinks, kMaxLinksPerHost);
  }
  link->number = next_sequence_++;
  link->threads = 2;
  links_.emplace(link->number, link);
  PushLocked(link, EncodeFrame(0, MakeHello(kRoleSender, 0)));
  base::Status status = StartThread(link->reader, [this, link] { Read(link); });
  if (status.ok()) status = StartThread(link->writer, [this, link] { Write(link); });
  if (status.ok()) return status;
  // The process is at its thread limit: one peer less, not one node.
  if (link->reader.joinable()) {
    link->threads = 1;
    CloseLinkLocked(link, status);
  } else {
    links_.erase(link->number);
  }
  return status.Annotate(link->stream->peer());
}

void SenderCore::Read(const std::shared_ptr<SenderLink>& link) {
  FrameReader reader(*link->stream);
  const base::TimePoint hello_limit = Now() + kHelloTimeout;
  base::Status status = reader.Next(hello_limit, hello_limit);
  while (status.ok()) {
    status = HandleFrame(link, reader);
    if (status.ok()) status = reader.Next(Now() + kIdleTimeout);
  }
  base::MutexLock lock(mutex_);
  const bool at_fault =
      status.code() == base::StatusCode::kCorrupt || status.code() == base::StatusCode::kUnimplemented;
  if (at_fault) {
    LeaveLinkLocked(link, status);
  } else {
    CloseLinkLocked(link, status);
  }
  ThreadEndedLocked(link);
}

// An error ends the connection.
base::Status SenderCore::HandleFrame(const std::shared_ptr<SenderLink>& link, FrameReader& reader) {
  if (reader.header().body_bytes > 0) KVPLANE_RETURN_IF_ERROR(reader.SkipBody());
  base::MutexLock lock(mutex_);
  if (link->closed || link->leaving) return base::Cancelled("connection closed");
  const bool is_hello = reader.type() == FrameType::kHello;
  if (is_hello == link->hello_received) return base::Corrupt("HELLO must be the first frame, and only it");
  switch (reader.type()) {
    case FrameType::kHello:
      return HandleHelloLocked(*link, reader.head());
    case FrameType::kPull:
      return HandlePullLocked(link, reader);
    case FrameType::kCredit:
      return HandleCreditLocked(*link, reader.head());
    case FrameType::kNack:
    case FrameType::kAck:
    case FrameType::kAbort:
      return HandleTransferFrameLocked(link, reader);
    case FrameType::kPing: {
      KVPLANE_ASSIGN_OR_RETURN(const PingFrame ping, ParsePing(reader.head()));
      PushLocked(link, EncodeFrame(0, PongFrame{ping.cookie}));
      return base::Status::Ok();
    }
    case FrameType::kPong:
      return base::Status::Ok();
    case FrameType::kOpen:
    case FrameType::kTile:
    case FrameType::kFirstToken:
    case FrameType::kDone:
      return base::Corrupt("a decode node does not send frames of type {}", reader.header().type);
  }
  if ((reader.header().flags & kFlagSkippable) != 0) return base::Status::Ok();
  return base::Unimplemented("frame type {} is unknown and must not be skipped", reader.header().type);
}

base::Status SenderCore::HandleHelloLocked(SenderLink& link, std::span<const std::byte> head) {
  KVPLANE_ASSIGN_OR_RETURN(link.peer, ParseHello(head));
  if (link.peer.role != kRoleReceiver) return base::Corrupt("HELLO role {} cannot pull", link.peer.role);
  link.hello_received = true;
  link.credit_limit = link.peer.credit_bytes;
  return base::Status::Ok();
}

void SenderCore::RefusePullLocked(const std::shared_ptr<SenderLink>& link, uint32_t stream,
                                  base::Status status) {
  PushLocked(link, EncodeFrame(stream, AbortFrame{std::move(status)}));
}

base::Status SenderCore::HandlePullLocked(const std::shared_ptr<SenderLink>& link,
                                          const FrameReader& reader) {
  KVPLANE_ASSIGN_OR_RETURN(PullFrame pull, ParsePull(reader.head()));
  const uint32_t stream = reader.header().stream;
  if (stream == 0 || link->streams.contains(stream) || link->waiting.contains(stream)) {
    return base::Corrupt("PULL on stream {}, which is not free", stream);
  }
  if (base::Status status = CheckTransferId(pull.transfer_id); !status.ok()) {
    RefusePullLocked(link, stream, std::move(status));
    return base::Status::Ok();
  }
  if (const auto found = offers_.find(pull.transfer_id); found != offers_.end()) {
    const std::shared_ptr<SendTransfer> transfer = found->second;
    if (transfer->link != nullptr) {
      RefusePullLocked(link, stream,
                       base::FailedPrecondition("transfer \"{}\" is already being pulled", pull.transfer_id));
    } else {
      AttachLocked(transfer, link, stream, pull, reader.frame_bytes());
    }
    return base::Status::Ok();
  }
  if (const EndedTransfer* end = FindEndedLocked(pull.transfer_id); end != nullptr) {
    RefusePullLocked(link, stream, end->status);
    return base::Status::Ok();
  }
  if (waiting_.size() >= kMaxWaitingPulls || link->waiting.size() >= kMaxWaitingPullsPerLink) {
    RefusePullLocked(link, stream,
                     base::ResourceExhausted("{} pulls already wait for their offers, {} of this connection",
                                             waiting_.size(), link->waiting.size()));
    return base::Status::Ok();
  }
  if (const auto found = waiting_.find(pull.transfer_id); found != waiting_.end()) {
    // The decode node asks anew, most likely after a reconnect this end has not noticed: the latest counts.
    const WaitingPull& old = found->second;
    RefusePullLocked(old.link, old.stream, base::FailedPrecondition("pulled again on another stream"));
    old.link->waiting.erase(old.stream);
    waiting_.erase(found);
  }
  const base::Duration patience =
      std::min<base::Duration>(std::chrono::milliseconds(pull.patience_ms), kMaxPatience);
  link->waiting.emplace(stream, pull.transfer_id);
  const std::string id = pull.transfer_id;
  waiting_.emplace(id, WaitingPull{link, stream, std::move(pull), reader.frame_bytes(), Now() + patience});
  wake_housekeeper_.NotifyAll();
  return base::Status::Ok();
}

base::Status SenderCore::HandleCreditLocked(SenderLink& link, std::span<const std::byte> head) {
  KVPLANE_ASSIGN_OR_RETURN(const CreditFrame credit, ParseCredit(head));
  if (credit.limit_bytes < link.credit_limit) {
    return base::Corrupt("CREDIT takes {} bytes back", link.credit_limit - credit.limit_bytes);
  }
  link.credit_limit = credit.limit_bytes;
  link.wake_writer.NotifyAll();
  return base::Status::Ok();
}

base::Status SenderCore::HandleTransferFrameLocked(const std::shared_ptr<SenderLink>& link,
                                                   const FrameReader& reader) {
  const uint32_t stream = reader.header().stream;
  if (reader.type() == FrameType::kAbort) {
    KVPLANE_ASSIGN_OR_RETURN(const AbortFrame abort, ParseAbort(reader.head()));
    const base::Status status = abort.status.Annotate("decode node");
    if (stream == 0) return status;
    if (const auto waiting = link->waiting.find(stream); waiting != link->waiting.end()) {
      waiting_.erase(waiting->second);
      link->waiting.erase(waiting);
    }
    if (const auto found = link->streams.find(stream); found != link->streams.end()) {
      const std::shared_ptr<SendTransfer> transfer = found->second;
      transfer->bytes_wire += reader.frame_bytes();
      FinishLocked(transfer, status);
    }
    return base::Status::Ok();
  }
  const auto found = link->streams.find(stream);
  if (found == link->streams.end()) return base::Status::Ok();  // it has just ended here
  const std::shared_ptr<SendTransfer> transfer = found->second;
  transfer->bytes_wire += reader.frame_bytes();
  return reader.type() == FrameType::kAck ? HandleAckLocked(transfer, reader.head())
                                          : HandleNackLocked(transfer, reader.head());
}

base::Status SenderCore::HandleNackLocked(const std::shared_ptr<SendTransfer>& transfer,
                                          std::span<const std::byte> head) {
  KVPLANE_ASSIGN_OR_RETURN(const NackFrame nack, ParseNack(head));
  const auto tile = transfer->grid.Find(nack.layer, nack.side, nack.group, nack.first_token);
  if (!tile.has_value() || tile->index >= transfer->next_tile[tile->layer]) {
    AbortLocked(transfer, base::Corrupt("NACK for a tile that was not sent"));
    return base::Status::Ok();
  }
  const TileNumber number{tile->layer, tile->index};
  const uint32_t attempt = ++transfer->attempts[number];
  ++transfer->tiles_retried;
  if (attempt > options_.tile_retries) {
    AbortLocked(transfer, base::Corrupt("layer {}, tokens from {}: arrived corrupt {} times", nack.layer,
                                        nack.first_token, attempt));
    return base::Status::Ok();
  }
  transfer->resend.push_back(number);
  UpdateRunnableLocked(transfer);
  return base::Status::Ok();
}

base::Status SenderCore::HandleAckLocked(const std::shared_ptr<SendTransfer>& transfer,
                                         std::span<const std::byte> head) {
  KVPLANE_ASSIGN_OR_RETURN(const AckFrame ack, ParseAck(head));
  if (transfer->done_at == 0 || transfer->done_at != transfer->tiles_sent) {
    AbortLocked(transfer, base::Corrupt("ACK before everything was sent"));
    return base::Status::Ok();
  }
  TransferOutcome& outcome = transfer->outcome;
  // The peer counted this very ACK too. What it says must not be less than what this end has seen, nor
  // absurd.
  constexpr uint64_t kMostOwnFrames = 1 << 20;
  outcome.bytes_wire =
      std::clamp(ack.bytes_wire, transfer->bytes_wire, transfer->bytes_wire + kMostOwnFrames);
  outcome.times.decode = ack.decode;
  outcome.times.exposed = ack.exposed;
  FinishLocked(transfer, base::Status::Ok());
  return base::Status::Ok();
}

void SenderCore::EndTransfersLocked(const std::shared_ptr<SenderLink>& link, const base::Status& status) {
  for (const auto& [stream, id] : link->waiting) waiting_.erase(id);
  link->waiting.clear();
  while (!link->streams.empty()) {
    const std::shared_ptr<SendTransfer> transfer = link->streams.begin()->second;
    FinishLocked(transfer, status.Annotate("connection lost"));
  }
}

void SenderCore::LeaveLinkLocked(const std::shared_ptr<SenderLink>& link, const base::Status& status) {
  if (link->closed || link->leaving) return;
  base::Log(base::LogLevel::kWarn, "{}: ending the connection: {}", link->stream->peer(), status.ToString());
  EndTransfersLocked(link, status);
  PushLocked(link, EncodeFrame(0, AbortFrame{status}));
  link->leaving = true;
}

void SenderCore::CloseLinkLocked(const std::shared_ptr<SenderLink>& link, const base::Status& status) {
  if (link->closed) return;
  link->closed = true;
  link->stream->Shutdown();
  link->wake_writer.NotifyAll();
  EndTransfersLocked(link, status);
  link->control.clear();
}

void SenderCore::ThreadEndedLocked(const std::shared_ptr<SenderLink>& link) {
  if (--link->threads > 0) return;
  dead_links_.push_back(link);
  links_.erase(link->number);
  wake_housekeeper_.NotifyAll();
}

}  // namespace kvplane::transfer
