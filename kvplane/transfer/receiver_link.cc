// ReceiverCore: connections to prefill nodes and the frames they send.
#include <algorithm>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/receiver_core.h"

namespace kvplane::transfer {
namespace {

// A connection without traffic is closed after this time; below the sender's own limit, so that a PULL does
// not meet a connection that is just being closed from there.
constexpr base::Duration kIdleTimeout = std::chrono::minutes(10);

// A Write() that is not done after this time ends the connection.
constexpr base::Duration kWriteTimeout = std::chrono::seconds(60);

// How long a broken connection is kept to tell the peer why.
constexpr base::Duration kFarewellTimeout = std::chrono::seconds(1);

// Longest patience told to a prefill node: it refuses to remember a PULL for longer.
constexpr base::Duration kMaxPatience = std::chrono::hours(1);

base::TimePoint Now() { return base::Clock::System().Now(); }

base::Result<std::vector<codec::Strategy>> StrategiesOf(const OpenFrame& open) {
  std::vector<codec::Strategy> strategies;
  for (const auto& [key, value] : open.strategies) {
    auto k = codec::SideStrategy::ParseCanonical(key, tensor::Side::kKey);
    if (!k.ok()) return base::Corrupt("OPEN key strategy: {}", k.status().message());
    auto v = codec::SideStrategy::ParseCanonical(value, tensor::Side::kValue);
    if (!v.ok()) return base::Corrupt("OPEN value strategy: {}", v.status().message());
    strategies.emplace_back(*std::move(k), *std::move(v));
  }
  return strategies;
}

}  // namespace

base::Status ReceiverCore::AttachLocked(const std::shared_ptr<RecvTransfer>& transfer) {
  std::shared_ptr<ReceiverLink> link;
  if (const auto found = links_.find(transfer->endpoint); found != links_.end()) {
    link = found->second;
  } else {
    link = std::make_shared<ReceiverLink>();
    link->endpoint = transfer->endpoint;
    link->last_arrival = link->last_ping = Now();
    KVPLANE_RETURN_IF_ERROR(StartThread(link->reader, [this, link] { Run(link); }));
    ++links_alive_;
    links_.emplace(link->endpoint, link);
  }
  transfer->link = link;
  transfer->stream = 0;
  if (link->ready) {
    SendPullLocked(link, transfer);
  } else {
    link->waiting.push_back(transfer);
  }
  return base::Status::Ok();
}

void ReceiverCore::SendPullLocked(const std::shared_ptr<ReceiverLink>& link,
                                  const std::shared_ptr<RecvTransfer>& transfer) {
  if (!transfer->descriptor.whole_model() && link->peer_minor < kMinorOfHeadShards) {
    FinishLocked(transfer, base::Unimplemented("the prefill node speaks wire version 1.{}; heads can be "
                                               "pulled apart since 1.{}",
                                               link->peer_minor, kMinorOfHeadShards));
    return;
  }
  do {
    transfer->stream = link->next_stream++;
  } while (transfer->stream == 0 || link->streams.contains(transfer->stream));
  link->streams.emplace(transfer->stream, transfer);
  PullFrame pull;
  pull.transfer_id = transfer->id;
  pull.accept_lossy = transfer->accept_lossy;
  pull.descriptor = transfer->descriptor;
  pull.least_quality = transfer->least_quality;
  const base::Duration patience = base::TimeLeft(base::Clock::System(), transfer->deadline, kMaxPatience);
  pull.patience_ms = static_cast<uint32_t>(base::ToMicros(patience) / 1000);
  SendLocked(*transfer, EncodeFrame(transfer->stream, pull));
}

void ReceiverCore::Run(const std::shared_ptr<ReceiverLink>& link) {
  const base::Status status = Serve(link);
  {
    base::MutexLock lock(mutex_);
    const bool at_fault =
        status.code() == base::StatusCode::kCorrupt || status.code() == base::StatusCode::kUnimplemented;
    EndLinkLocked(link, status);
    if (at_fault && link->writer_running) {
      base::Log(base::LogLevel::kWarn, "{}: ending the connection: {}", link->endpoint, status.ToString());
      link->control.push_back(EncodeFrame(0, AbortFrame{status}));
      link->wake_writer.NotifyAll();
      const base::TimePoint limit = Now() + kFarewellTimeout;
      while (link->writer_running && link->writer_ended.WaitUntil(mutex_, limit)) {
      }
    }
    if (link->stream != nullptr) link->stream->Shutdown();
  }
  if (link->writer.joinable()) link->writer.join();
  base::MutexLock lock(mutex_);
  dead_links_.push_back(link);
  wake_housekeeper_.NotifyAll();
}

// Connects, then reads frames until the connection ends; the status says why.
base::Status ReceiverCore::Serve(const std::shared_ptr<ReceiverLink>& link) {
  const base::TimePoint deadline = Now() + options_.connect_timeout;
  KVPLANE_ASSIGN_OR_RETURN(auto stream, transport_.Connect(link->endpoint, deadline));
  transport::Stream& connected = *stream;
  {
    base::MutexLock lock(mutex_);
    if (link->closed) return base::Cancelled("closed while connecting");
    link->stream = std::move(stream);
  }
  FrameReader reader(connected);
  KVPLANE_RETURN_IF_ERROR(Greet(link, reader, deadline));
  return ReadFrames(link, reader);
}

base::Status ReceiverCore::Greet(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader,
                                 base::TimePoint deadline) {
  const std::vector<std::byte> mine =
      EncodeFrame(0, MakeHello(kRoleReceiver, options_.credit_bytes, options_.profiles));
  const std::span<const std::byte> piece(mine);
  KVPLANE_RETURN_IF_ERROR(link->stream->Write({&piece, 1}, deadline));
  KVPLANE_RETURN_IF_ERROR(reader.Next(deadline, deadline));
  if (reader.type() == FrameType::kAbort) {
    KVPLANE_ASSIGN_OR_RETURN(const AbortFrame abort, ParseAbort(reader.head()));
    return base::Unavailable("prefill node refused: {}", abort.status.ToString());
  }
  if (reader.type() != FrameType::kHello || reader.header().body_bytes > 0) {
    return base::Corrupt("the first frame is of type {}, not HELLO", reader.header().type);
  }
  KVPLANE_ASSIGN_OR_RETURN(const HelloFrame hello, ParseHello(reader.head()));
  if (hello.role != kRoleSender) return base::Corrupt("HELLO role {} cannot send KV", hello.role);
  base::MutexLock lock(mutex_);
  if (link->closed) return base::Cancelled("connection closed");
  KVPLANE_RETURN_IF_ERROR(StartThread(link->writer, [this, link] { Write(link); }));
  link->writer_running = true;
  link->credit_limit = options_.credit_bytes;
  link->peer_minor = hello.minor;
  link->ready = true;
  link->last_arrival = link->last_ping = Now();
  std::vector<std::shared_ptr<RecvTransfer>> waiting;
  waiting.swap(link->waiting);
  for (const std::shared_ptr<RecvTransfer>& transfer : waiting) SendPullLocked(link, transfer);
  wake_housekeeper_.NotifyAll();
  return base::Status::Ok();
}

base::Status ReceiverCore::ReadFrames(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader) {
  while (true) {
    KVPLANE_RETURN_IF_ERROR(reader.Next(Now() + kIdleTimeout));
    KVPLANE_RETURN_IF_ERROR(HandleFrame(link, reader));
  }
}

// An error ends the connection.
base::Status ReceiverCore::HandleFrame(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader) {
  if (reader.type() == FrameType::kTile) return HandleTile(link, reader);
  if (reader.header().body_bytes > 0) KVPLANE_RETURN_IF_ERROR(reader.SkipBody());
  if (reader.type() == FrameType::kOpen) return HandleOpen(link, reader);
  base::MutexLock lock(mutex_);
  if (link->closed) return base::Cancelled("connection closed");
  link->last_arrival = Now();
  switch (reader.type()) {
    case FrameType::kFirstToken:
    case FrameType::kDone:
    case FrameType::kAbort:
      return HandleTransferFrameLocked(link, reader);
    case FrameType::kPing: {
      KVPLANE_ASSIGN_OR_RETURN(const PingFrame ping, ParsePing(reader.head()));
      PushLocked(*link, EncodeFrame(0, PongFrame{ping.cookie}));
      return base::Status::Ok();
    }
    case FrameType::kPong:
      return base::Status::Ok();
    case FrameType::kTile:  // above
    case FrameType::kOpen:
    case FrameType::kHello:
    case FrameType::kPull:
    case FrameType::kCredit:
    case FrameType::kAck:
    case FrameType::kNack:
      return base::Corrupt("a prefill node does not send frames of type {} here", reader.header().type);
  }
  if ((reader.header().flags & kFlagSkippable) != 0) return base::Status::Ok();
  return base::Unimplemented("frame type {} is unknown and must not be skipped", reader.header().type);
}

base::Status ReceiverCore::HandleTransferFrameLocked(const std::shared_ptr<ReceiverLink>& link,
                                                     const FrameReader& reader) {
  const uint32_t stream = reader.header().stream;
  if (stream == 0 && reader.type() == FrameType::kAbort) {
    KVPLANE_ASSIGN_OR_RETURN(const AbortFrame abort, ParseAbort(reader.head()));
    return base::Unavailable("prefill node ended the connection: {}", abort.status.ToString());
  }
  const auto found = link->streams.find(stream);
  if (found == link->streams.end()) return base::Status::Ok();  // it has just ended here
  const std::shared_ptr<RecvTransfer> transfer = found->second;
  transfer->bytes_wire += reader.frame_bytes();
  transfer->last_arrival = Now();
  if (reader.type() == FrameType::kAbort) {
    KVPLANE_ASSIGN_OR_RETURN(const AbortFrame abort, ParseAbort(reader.head()));
    FinishLocked(transfer, abort.status.Annotate("prefill node"));
  } else if (!transfer->opened) {
    AbortLocked(transfer, base::Corrupt("frame of type {} before OPEN", reader.header().type));
  } else if (reader.type() == FrameType::kFirstToken) {
    KVPLANE_ASSIGN_OR_RETURN(FirstTokenFrame first, ParseFirstToken(reader.head()));
    if (transfer->least_quality > 0 && link->peer_minor < kMinorOfLeastQuality) {
      transfer->held_token = std::move(first.token);
    } else {
      TellFirstTokenLocked(*transfer, std::move(first.token));
    }
  } else {
    KVPLANE_ASSIGN_OR_RETURN(const DoneFrame done, ParseDone(reader.head()));
    HandleDoneLocked(transfer, done);
  }
  return base::Status::Ok();
}

void ReceiverCore::TellFirstTokenLocked(RecvTransfer& transfer, FirstToken token) {
  if (!transfer.on_first_token) return;
  callbacks_.push_back(
      [callback = std::move(transfer.on_first_token), told = std::move(token)] { callback(told); });
  transfer.on_first_token = nullptr;
  wake_housekeeper_.NotifyAll();
}

// A sender of today has looked at the least quality itself; what it says of it is checked all the same.
void ReceiverCore::HandleDoneLocked(const std::shared_ptr<RecvTransfer>& transfer, const DoneFrame& done) {
  transfer->done = done;
  transfer->done_at = Now();
  transfer->outcome.kv_quality = done.kv_quality;
  if (done.kv_quality < transfer->least_quality) {
    AbortLocked(transfer, base::FailedPrecondition("KV of quality {}; at least {} is wanted", done.kv_quality,
                                                   transfer->least_quality));
    return;
  }
  if (transfer->held_token.has_value()) TellFirstTokenLocked(*transfer, *std::move(transfer->held_token));
  transfer->held_token.reset();
  MaybeCompleteLocked(transfer);
}

base::Status ReceiverCore::HandleOpen(const std::shared_ptr<ReceiverLink>& link, const FrameReader& reader) {
  KVPLANE_ASSIGN_OR_RETURN(const OpenFrame open, ParseOpen(reader.head()));
  std::shared_ptr<RecvTransfer> transfer;
  {
    base::MutexLock lock(mutex_);
    if (link->closed) return base::Cancelled("connection closed");
    link->last_arrival = Now();
    const auto found = link->streams.find(reader.header().stream);
    if (found == link->streams.end()) return base::Status::Ok();  // it has just ended here
    transfer = found->second;
    transfer->bytes_wire += reader.frame_bytes();
    transfer->last_arrival = link->last_arrival;
  }
  // Outside the lock: a strategy that is new here takes its time.
  auto codecs = BindStrategies(open, transfer->descriptor, transfer->accept_lossy);
  base::MutexLock lock(mutex_);
  if (transfer->finished || transfer->link != link) return base::Status::Ok();
  if (base::Status status = OpenTransferLocked(*transfer, open, std::move(codecs)); !status.ok()) {
    AbortLocked(transfer, std::move(status));
  }
  return base::Status::Ok();
}

base::Result<std::vector<codec::SideCodecs>> ReceiverCore::BindStrategies(const OpenFrame& open,
                                                                          const KvDescriptor& descriptor,
                                                                          bool accept_lossy) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<codec::Strategy> strategies, StrategiesOf(open));
  KVPLANE_ASSIGN_OR_RETURN(const std::shared_ptr<const codec::ModelProfile> profile,
                           ProfileOf(open, strategies, descriptor, options_.profiles));
  std::vector<codec::SideCodecs> codecs;
  for (const codec::Strategy& strategy : strategies) {
    if (strategy.lossy() && !accept_lossy) {
      return base::FailedPrecondition("the offered strategy is lossy and exact KV was asked for");
    }
    KVPLANE_ASSIGN_OR_RETURN(codecs.emplace_back(), codecs_.Bind(strategy, profile));
  }
  return codecs;
}

base::Status ReceiverCore::OpenTransferLocked(RecvTransfer& transfer, const OpenFrame& open,
                                              base::Result<std::vector<codec::SideCodecs>> codecs) {
  if (transfer.opened) return base::Corrupt("OPEN twice");
  if (open.tokens != transfer.descriptor.tokens || open.tile_tokens != tensor::kTileTokens) {
    return base::Corrupt("OPEN of {} tokens in tiles of {}; {} in tiles of {} were asked for", open.tokens,
                         open.tile_tokens, transfer.descriptor.tokens, tensor::kTileTokens);
  }
  auto grid = TileGrid::Create(transfer.descriptor, open.group_heads);
  if (!grid.ok()) return base::Corrupt("OPEN: {}", grid.status().message());
  KVPLANE_ASSIGN_OR_RETURN(transfer.codecs, std::move(codecs));
  transfer.grid = *grid;
  const codec::TileShape largest{std::min(tensor::kTileTokens, transfer.grid.tokens),
                                 transfer.grid.group_heads, transfer.grid.geometry.head_dim};
  for (const codec::SideCodecs& codec : transfer.codecs) {
    transfer.strategy_texts.push_back(codec::Strategy(codec[0]->strategy(), codec[1]->strategy()).ToString());
    for (const auto& side : codec) {
      transfer.link->largest_tile = std::max(transfer.link->largest_tile, side->MaxEncodedBytes(largest));
    }
  }
  transfer.tiles.assign(transfer.grid.tiles(), TileState::kMissing);
  transfer.tiles_missing.assign(transfer.grid.geometry.layers, transfer.grid.tiles_per_layer());
  transfer.tiles_left = transfer.grid.tiles();
  transfer.opened = true;
  // What is left of the window may be enough for every transfer before this one and too little for a tile of
  // this: nothing will be decoded that could say so later.
  ReturnCreditLocked(*transfer.link, 0);
  wake_housekeeper_.NotifyAll();  // the stall timeout counts from here
  return base::Status::Ok();
}

base::Status ReceiverCore::HandleTile(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader) {
  KVPLANE_ASSIGN_OR_RETURN(const TileFrame frame, ParseTile(reader.head()));
  const uint32_t bytes = reader.header().body_bytes;
  CodedTile coded;
  {
    base::MutexLock lock(mutex_);
    if (link->closed) return base::Cancelled("connection closed");
    link->last_arrival = link->last_tile = Now();
    const bool idle = link->body_bytes_received + options_.credit_bytes == link->credit_limit;
    if (link->body_bytes_received + bytes > link->credit_limit && !idle) {
      return base::Corrupt("a tile of {} bytes overruns the granted credits", bytes);
    }
    link->body_bytes_received += bytes;
    if (const auto found = link->streams.find(reader.header().stream); found != link->streams.end()) {
      const std::shared_ptr<RecvTransfer> transfer = found->second;
      transfer->bytes_wire += reader.frame_bytes();
      transfer->last_arrival = link->last_arrival;
      ++transfer->tiles_received;
      if (base::Status status = ClaimTileLocked(*transfer, reader, frame, coded); status.ok()) {
        coded.transfer = transfer;
      } else {
        AbortLocked(transfer, std::move(status));
      }
    }
  }
  if (coded.transfer == nullptr) {
    KVPLANE_RETURN_IF_ERROR(reader.SkipBody());
    base::MutexLock lock(mutex_);
    ReturnCreditLocked(*link, bytes);
    return base::Status::Ok();
  }
  coded.link = link;
  coded.body = pool_.Take(bytes);
  coded.body_crc = frame.body_crc;
  KVPLANE_RETURN_IF_ERROR(reader.ReadBody(coded.body.bytes()));
  if (decoding_.empty()) {
    DecodeTile(coded, link->workspace);
    return base::Status::Ok();
  }
  base::MutexLock lock(mutex_);
  coded_.push_back(std::move(coded));
  wake_decoders_.NotifyOne();
  return base::Status::Ok();
}

base::Status ReceiverCore::ClaimTileLocked(RecvTransfer& transfer, const FrameReader& reader,
                                           const TileFrame& frame, CodedTile& coded) {
  if (!transfer.opened) return base::Corrupt("TILE before OPEN");
  if (frame.strategy >= transfer.codecs.size()) {
    return base::Corrupt("TILE names strategy {} of {}", frame.strategy, transfer.codecs.size());
  }
  const auto tile = transfer.grid.Find(frame.layer, frame.side, frame.group, frame.first_token);
  if (!tile.has_value() || tile->tokens != frame.tokens) {
    return base::Corrupt("TILE of layer {}, group {}, tokens [{}, +{}) is not one of this transfer's",
                         frame.layer, frame.group, frame.first_token, frame.tokens);
  }
  transfer.used_strategies |= 1u << frame.strategy;
  coded.codec = transfer.codecs[frame.strategy][static_cast<size_t>(frame.side)];
  if (reader.header().body_bytes > coded.codec->MaxEncodedBytes(transfer.grid.ShapeOf(*tile))) {
    return base::Corrupt("TILE of {} bytes is larger than any coding of it", reader.header().body_bytes);
  }
  TileState& state = transfer.tiles[uint64_t{tile->layer} * transfer.grid.tiles_per_layer() + tile->index];
  if (state != TileState::kMissing) return base::Corrupt("TILE came twice without being asked for");
  state = TileState::kHeld;
  coded.tile = *tile;
  return base::Status::Ok();
}

void ReceiverCore::Write(const std::shared_ptr<ReceiverLink>& link) {
  base::MutexLock lock(mutex_);
  while (true) {
    while (link->control.empty() && !link->credit_due && !link->closed) {
      link->wake_writer.WaitUntil(mutex_, base::kNoDeadline);
    }
    std::deque<std::vector<std::byte>> frames;
    frames.swap(link->control);
    if (link->credit_due && !link->closed) {
      link->credit_limit = link->body_bytes_consumed + options_.credit_bytes;
      frames.push_back(EncodeFrame(0, CreditFrame{link->credit_limit}));
    }
    link->credit_due = false;
    if (frames.empty()) break;
    const base::Duration timeout = link->closed ? kFarewellTimeout : kWriteTimeout;
    mutex_.Unlock();
    std::vector<std::span<const std::byte>> pieces;
    for (const std::vector<std::byte>& frame : frames) pieces.emplace_back(frame);
    const base::Status status = link->stream->Write(pieces, Now() + timeout);
    mutex_.Lock();
    if (!status.ok()) {
      CloseLinkLocked(link, status);
      break;
    }
  }
  link->writer_running = false;
  link->writer_ended.NotifyAll();
}

void ReceiverCore::CloseLinkLocked(const std::shared_ptr<ReceiverLink>& link, const base::Status& status) {
  EndLinkLocked(link, status);
  if (link->stream != nullptr) link->stream->Shutdown();
}

void ReceiverCore::EndLinkLocked(const std::shared_ptr<ReceiverLink>& link, const base::Status& status) {
  if (link->closed) return;
  const bool was_ready = link->ready;
  link->closed = true;
  link->ready = false;
  link->control.clear();
  link->wake_writer.NotifyAll();
  if (const auto found = links_.find(link->endpoint); found != links_.end() && found->second == link) {
    links_.erase(found);
  }
  std::vector<std::shared_ptr<RecvTransfer>> transfers = std::move(link->waiting);
  for (const auto& [stream, transfer] : link->streams) transfers.push_back(transfer);
  link->waiting.clear();
  link->streams.clear();
  for (const std::shared_ptr<RecvTransfer>& transfer : transfers) {
    if (was_ready && !transfer->opened && !transfer->asked_again && !stopping_) {
      transfer->asked_again = true;
      if (base::Status again = AttachLocked(transfer); !again.ok()) FinishLocked(transfer, std::move(again));
    } else {
      FinishLocked(transfer, status.Annotate(fmt::format("connection to {}", link->endpoint)));
    }
  }
}

}  // namespace kvplane::transfer
