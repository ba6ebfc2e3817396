// ReceiverCore: from coded tiles to pages.
#include <algorithm>
#include <utility>

#include "kvplane/transfer/receiver_core.h"

namespace kvplane::transfer {
namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

void ReceiverCore::Decode() {
  codec::Workspace workspace;
  while (true) {
    CodedTile coded;
    {
      base::MutexLock lock(mutex_);
      while (!stopping_ && coded_.empty()) wake_decoders_.WaitUntil(mutex_, base::kNoDeadline);
      if (coded_.empty()) return;
      coded = std::move(coded_.front());
      coded_.pop_front();
    }
    DecodeTile(coded, workspace);
  }
}

void ReceiverCore::DecodeTile(const CodedTile& coded, codec::Workspace& workspace) {
  RecvTransfer& transfer = *coded.transfer;
  {
    base::MutexLock lock(mutex_);
    if (transfer.finished) {
      ReturnCreditLocked(*coded.link, coded.body.size());
      return;
    }
    ++transfer.decoding;
  }
  const base::TimePoint start = Now();
  const std::span<const std::byte> body = coded.body.bytes();
  base::Status status;
  uint8_t reason = kNackDecode;
  if (codec::TileCrc(body) != coded.body_crc) {
    status = base::Corrupt("tile CRC mismatch");
    reason = kNackChecksum;
  } else {
    const tensor::TileView view = transfer.grid.ViewOf(transfer.pages.layer(coded.tile.layer), coded.tile);
    status = coded.codec->Decode(body, workspace, view, transfer.grid.ContextOf(coded.tile));
  }
  const base::TimePoint end = Now();

  base::MutexLock lock(mutex_);
  ReturnCreditLocked(*coded.link, coded.body.size());
  --transfer.decoding;
  transfer.decode += end - start;
  if (transfer.finished) {
    if (transfer.decoding == 0) QueueCompletionLocked(coded.transfer);
    return;
  }
  transfer.last_decode = transfer.last_arrival = end;
  DecodedLocked(coded, status, reason);
}

void ReceiverCore::DecodedLocked(const CodedTile& coded, const base::Status& status, uint8_t nack_reason) {
  RecvTransfer& transfer = *coded.transfer;
  const TileGrid::Tile& tile = coded.tile;
  const uint64_t number = uint64_t{tile.layer} * transfer.grid.tiles_per_layer() + tile.index;
  if (!status.ok()) {
    const uint32_t attempt = ++transfer.attempts[number];
    if (attempt > options_.tile_retries) {
      AbortLocked(coded.transfer, status.Annotate(fmt::format("layer {}, tokens from {}, attempt {}",
                                                              tile.layer, tile.first_token, attempt)));
      return;
    }
    transfer.tiles[number] = TileState::kMissing;
    ++transfer.tiles_retried;
    NackFrame nack;
    nack.layer = tile.layer;
    nack.first_token = tile.first_token;
    nack.group = static_cast<uint16_t>(tile.group);
    nack.side = tile.side;
    nack.reason = nack_reason;
    SendLocked(transfer, EncodeFrame(transfer.stream, nack));
    return;
  }
  transfer.tiles[number] = TileState::kDecoded;
  ++transfer.tiles_decoded;
  transfer.bytes_raw += transfer.grid.ShapeOf(tile).raw_bytes();
  --transfer.tiles_left;
  --transfer.tiles_missing[tile.layer];
  while (transfer.layers_ready < transfer.tiles_missing.size() &&
         transfer.tiles_missing[transfer.layers_ready] == 0) {
    ++transfer.layers_ready;
  }
  MaybeCompleteLocked(coded.transfer);
}

// Credits go back in few, large steps: only when the sender has less than half its window left, or less than
// one tile. (It is never stuck above that: then any tile fits.)
void ReceiverCore::ReturnCreditLocked(ReceiverLink& link, size_t bytes) {
  link.body_bytes_consumed += bytes;
  const uint64_t left = link.credit_limit - std::min(link.credit_limit, link.body_bytes_received);
  if (left >= std::max<uint64_t>(options_.credit_bytes / 2, link.largest_tile)) return;
  link.credit_due = true;
  link.wake_writer.NotifyAll();
}

}  // namespace kvplane::transfer
