// SenderCore: which tile is encoded next, which frame is written next.
#include <algorithm>

#include "kvplane/transfer/sender_core.h"

namespace kvplane::transfer {
namespace {

// Frames gathered into one Write(): enough to make the system call cheap, little enough that an urgent frame
// that comes meanwhile does not wait long.
constexpr size_t kBatchBytes = 256 << 10;

// A Write() that is not done after this time ends the connection.
constexpr base::Duration kWriteTimeout = std::chrono::seconds(60);

// Turns are made anew when the pace is off by more than this factor.
constexpr double kPaceTolerance = 1.5;

base::TimePoint Now() { return base::Clock::System().Now(); }

// The first posted tile nobody has taken yet.
std::optional<TileNumber> NextTile(SendTransfer& transfer) {
  if (transfer.finished || transfer.link == nullptr) return std::nullopt;
  if (!transfer.resend.empty()) return transfer.resend.front();
  const uint32_t per_layer = transfer.grid.tiles_per_layer();
  for (uint32_t layer = transfer.first_open_layer; layer < transfer.next_tile.size(); ++layer) {
    const uint32_t next = transfer.next_tile[layer];
    if (next < transfer.grid.TilesWithin(transfer.posted[layer])) return TileNumber{layer, next};
    if (next == per_layer && layer == transfer.first_open_layer) ++transfer.first_open_layer;
  }
  return std::nullopt;
}

TileOrder OrderOf(const SendTransfer& transfer, TileNumber tile) {
  return {transfer.turn, tile.layer, tile.index, transfer.sequence};
}

base::Result<ReadyTile> EncodeTile(const SendTransfer& transfer, const TileGrid::Tile& tile, uint8_t strategy,
                                   uint32_t stream, uint32_t attempt, codec::Workspace& workspace,
                                   BufferPool& pool) {
  const codec::TileCodec& codec = *transfer.codecs[strategy][static_cast<size_t>(tile.side)];
  const size_t capacity = codec.MaxEncodedBytes(transfer.grid.ShapeOf(tile));
  BufferPool::Buffer body = pool.Take(capacity);
  const tensor::TileView view = transfer.grid.ViewOf(transfer.pages.layer(tile.layer), tile);
  KVPLANE_ASSIGN_OR_RETURN(const size_t bytes, codec.Encode(tensor::AsConst(view), workspace, body.bytes(),
                                                            transfer.grid.ContextOf(tile)));
  body.Shrink(bytes);
  if (bytes <= capacity / 2) {
    // Waiting tiles are counted by their coded size, so they must not hold on to the room for a raw one.
    BufferPool::Buffer small = pool.Take(bytes);
    std::copy_n(body.bytes().data(), bytes, small.bytes().data());
    body = std::move(small);
  }
  TileFrame frame;
  frame.layer = tile.layer;
  frame.first_token = tile.first_token;
  frame.tokens = static_cast<uint16_t>(tile.tokens);
  frame.group = static_cast<uint16_t>(tile.group);
  frame.side = tile.side;
  frame.strategy = strategy;
  frame.attempt = static_cast<uint8_t>(std::min<uint32_t>(attempt, 255));
  frame.body_crc = codec::TileCrc(body.bytes());
  ReadyTile ready;
  ready.tile = tile;
  ready.frame = EncodeFrame(stream, frame, static_cast<uint32_t>(bytes));
  ready.body = std::move(body);
  ready.resend = attempt > 0;
  return ready;
}

}  // namespace

void SenderCore::UpdateRunnableLocked(const std::shared_ptr<SendTransfer>& transfer) {
  if (transfer->runnable.has_value()) runnable_.erase(*transfer->runnable);
  transfer->runnable.reset();
  if (const std::optional<TileNumber> next = NextTile(*transfer); next.has_value()) {
    transfer->runnable = OrderOf(*transfer, *next);
    runnable_.emplace(*transfer->runnable, transfer);
    wake_encoders_.NotifyOne();
  }
}

// The slower of coding and writing is what a transfer waits for.
void SenderCore::RenewTurnsLocked(SenderLink& link) {
  const double pace = std::max(link.pace.seconds_per_byte(), encode_pace_.seconds_per_byte());
  if (pace <= link.turn_pace * kPaceTolerance && pace * kPaceTolerance >= link.turn_pace) return;
  link.turn_pace = pace;
  for (const auto& [stream, transfer] : link.streams) {
    transfer->turn = TurnOf(DemandOf(*transfer), pace);
    UpdateRunnableLocked(transfer);
  }
  std::multimap<TileOrder, ReadyTile> ready;
  while (!link.ready.empty()) {
    auto node = link.ready.extract(link.ready.begin());
    const ReadyTile& tile = node.mapped();
    node.key() = OrderOf(*tile.transfer, {tile.tile.layer, tile.tile.index});
    ready.insert(std::move(node));
  }
  link.ready = std::move(ready);
}

bool SenderCore::HasStagingLocked(const SenderLink& link, size_t bytes) const {
  if (link.staged_bytes == 0) return true;  // a tile larger than the whole bound must pass, too
  const size_t share = options_.staging_bytes / std::max<size_t>(busy_links_, 1);
  return staged_bytes_ + bytes <= options_.staging_bytes && link.staged_bytes + bytes <= share;
}

void SenderCore::ReleaseStagingLocked(SenderLink& link, size_t bytes) {
  if (bytes == 0) return;
  link.staged_bytes -= bytes;
  staged_bytes_ -= bytes;
  wake_encoders_.NotifyAll();
}

bool SenderCore::PickTileLocked(EncodeJob& job) {
  for (const auto& [order, transfer] : runnable_) {
    const TileNumber number{order.layer, order.index};
    const TileGrid::Tile tile = transfer->grid.At(number.layer, number.index);
    const codec::SideCodecs& codecs = transfer->codecs[transfer->current];
    const size_t bytes =
        codecs[static_cast<size_t>(tile.side)]->MaxEncodedBytes(transfer->grid.ShapeOf(tile));
    if (!HasStagingLocked(*transfer->link, bytes)) continue;
    job.transfer = transfer;
    job.link = transfer->link;
    job.tile = tile;
    job.strategy = transfer->current;
    transfer->used_strategies |= 1u << job.strategy;
    job.reserved_bytes = bytes;
    job.attempt = 0;
    if (!transfer->resend.empty()) {
      transfer->resend.pop_front();
      job.attempt = transfer->attempts[number];
    } else {
      ++transfer->next_tile[number.layer];
    }
    ++transfer->encoding;
    staged_bytes_ += bytes;
    job.link->staged_bytes += bytes;
    UpdateRunnableLocked(job.transfer);
    return true;
  }
  return false;
}

void SenderCore::Encode() {
  codec::Workspace workspace;
  base::MutexLock lock(mutex_);
  while (true) {
    EncodeJob job;
    while (!stopping_ && !PickTileLocked(job)) wake_encoders_.WaitUntil(mutex_, base::kNoDeadline);
    if (job.transfer == nullptr) return;
    const uint32_t stream = job.transfer->stream;
    mutex_.Unlock();
    const base::TimePoint start = Now();
    base::Result<ReadyTile> coded =
        EncodeTile(*job.transfer, job.tile, job.strategy, stream, job.attempt, workspace, pool_);
    const base::Duration took = Now() - start;
    mutex_.Lock();
    EncodedLocked(job, std::move(coded), took);
  }
}

void SenderCore::EncodedLocked(const EncodeJob& job, base::Result<ReadyTile> coded, base::Duration took) {
  SendTransfer& transfer = *job.transfer;
  --transfer.encoding;
  transfer.encode += took;
  encode_pace_.Add(transfer.grid.ShapeOf(job.tile).raw_bytes(),
                   base::ToSeconds(took) / static_cast<double>(codec_threads()));
  const bool keep = coded.ok() && !transfer.finished && !job.link->closed;
  ReleaseStagingLocked(*job.link, job.reserved_bytes - (keep ? coded->body.size() : 0));
  if (transfer.finished) {
    if (transfer.encoding == 0) QueueCallbackLocked(job.transfer);
    return;
  }
  if (!coded.ok()) {
    AbortLocked(job.transfer, coded.status().Annotate("cannot encode a tile"));
    return;
  }
  if (!keep) return;  // the link's end will finish the transfer
  coded->transfer = job.transfer;
  ++transfer.queued;
  const TileOrder order = OrderOf(transfer, {job.tile.layer, job.tile.index});
  job.link->ready.emplace(order, *std::move(coded));
  job.link->wake_writer.NotifyAll();
}

SenderCore::Batch SenderCore::TakeBatchLocked(SenderLink& link) {
  Batch batch;
  size_t bytes = 0;
  for (; !link.control.empty() && bytes < kBatchBytes; link.control.pop_front()) {
    bytes += link.control.front().bytes.size();
    batch.control.push_back(std::move(link.control.front()));
  }
  while (!link.ready.empty() && bytes < kBatchBytes) {
    ReadyTile& tile = link.ready.begin()->second;
    const uint64_t after = link.body_bytes_sent + tile.body.size();
    // With the whole window returned even a tile larger than the window may go.
    const bool idle = link.body_bytes_sent + link.peer.credit_bytes <= link.credit_limit;
    if (after > link.credit_limit && !idle) break;
    link.body_bytes_sent = after;
    bytes += tile.frame.size() + tile.body.size();
    batch.tiles.push_back(std::move(tile));
    link.ready.erase(link.ready.begin());
  }
  return batch;
}

void SenderCore::Write(const std::shared_ptr<SenderLink>& link) {
  base::MutexLock lock(mutex_);
  while (!link->closed) {
    const Batch batch = TakeBatchLocked(*link);
    if (batch.control.empty() && batch.tiles.empty()) {
      if (link->leaving) {
        CloseLinkLocked(link, base::Cancelled("connection closed"));
        break;
      }
      link->wake_writer.WaitUntil(mutex_, base::kNoDeadline);
      continue;
    }
    mutex_.Unlock();
    std::vector<std::span<const std::byte>> pieces;
    for (const ControlFrame& frame : batch.control) pieces.emplace_back(frame.bytes);
    for (const ReadyTile& tile : batch.tiles) {
      pieces.emplace_back(tile.frame);
      pieces.emplace_back(tile.body.bytes());
    }
    const base::TimePoint start = Now();
    const base::Status status = link->stream->Write(pieces, start + kWriteTimeout);
    mutex_.Lock();
    WrittenLocked(link, batch, start);
    if (!status.ok()) CloseLinkLocked(link, status);
  }
  ThreadEndedLocked(link);
}

void SenderCore::WrittenLocked(const std::shared_ptr<SenderLink>& link, const Batch& batch,
                               base::TimePoint start) {
  const base::TimePoint end = Now();
  size_t total = 0;
  for (const ControlFrame& frame : batch.control) total += frame.bytes.size();
  for (const ReadyTile& tile : batch.tiles) total += tile.frame.size() + tile.body.size();
  // The time of a Write() is shared out by bytes.
  const double per_byte = base::ToSeconds(end - start) / static_cast<double>(total);
  for (const ControlFrame& frame : batch.control) {
    if (frame.transfer != nullptr) frame.transfer->bytes_wire += frame.bytes.size();
  }
  uint64_t raw_bytes = 0;
  for (const ReadyTile& tile : batch.tiles) {
    SendTransfer& transfer = *tile.transfer;
    raw_bytes += transfer.grid.ShapeOf(tile.tile).raw_bytes();
    const size_t bytes = tile.frame.size() + tile.body.size();
    transfer.bytes_wire += bytes;
    transfer.send += base::FromSeconds(per_byte * static_cast<double>(bytes));
    ++transfer.tiles_sent;
    if (!tile.resend) {
      ++transfer.tiles_distinct;
      transfer.bytes_raw += transfer.grid.ShapeOf(tile.tile).raw_bytes();
    }
    --transfer.queued;
    ReleaseStagingLocked(*link, tile.body.size());
  }
  if (raw_bytes > 0) {
    // Tiles that waited for credits since the write before waited for the link.
    link->pace.Add(raw_bytes, base::ToSeconds(end - link->backlogged_since.value_or(start)));
    link->backlogged_since = link->ready.empty() ? std::nullopt : std::optional(end);
    RenewTurnsLocked(*link);
  }
  for (const ReadyTile& tile : batch.tiles) MaybeDoneLocked(tile.transfer);
}

}  // namespace kvplane::transfer
