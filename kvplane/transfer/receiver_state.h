// What the receiver remembers of a transfer and of a connection. Internal to kvplane/transfer.
//
// Fields after "guarded" are read and written only with ReceiverCore's mutex held; the others are constant
// once the object is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/codec_cache.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/transfer/buffer_pool.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transfer/wire_frames.h"

namespace kvplane::transfer {

struct ReceiverLink;

enum class TileState : uint8_t { kMissing, kHeld, kDecoded };

struct RecvTransfer {
  std::string endpoint;
  std::string id;
  KvDescriptor descriptor;
  base::TimePoint deadline;
  bool accept_lossy = true;
  uint16_t least_quality = 0;
  PageTable pages;
  base::TimePoint asked;  // when Pull() was called

  // guarded: callbacks, emptied when used
  OnFirstToken on_first_token;
  OnComplete on_complete;

  // guarded: the connection
  std::shared_ptr<ReceiverLink> link;
  uint32_t stream = 0;       // 0 until the PULL has been sent
  bool asked_again = false;  // once, after the connection broke before OPEN
  bool opened = false;
  base::TimePoint last_arrival;

  // guarded: set by OPEN, constant afterwards (readers outside the lock got them after it)
  TileGrid grid;
  std::vector<codec::SideCodecs> codecs;    // of OPEN's strategies
  std::vector<std::string> strategy_texts;  // [codecs]

  // guarded: progress
  uint32_t used_strategies = 0;         // bit i: tiles of strategy i have come
  std::vector<TileState> tiles;         // [layers x tiles_per_layer]
  std::vector<uint32_t> tiles_missing;  // by layer, not yet decoded
  uint64_t tiles_left = 0;
  uint32_t layers_ready = 0;
  std::map<uint64_t, uint32_t> attempts;  // NACKs so far, of tiles that had any
  std::optional<FirstToken>
      held_token;  // from a sender that does not look at least_quality: until DONE says it
  std::optional<DoneFrame> done;
  base::TimePoint done_at;
  base::TimePoint last_decode;

  // guarded: accounting
  uint32_t decoding = 0;  // decoders inside the pages now: the fence
  uint32_t tiles_received = 0;
  uint32_t tiles_retried = 0;
  uint32_t tiles_decoded = 0;
  uint64_t bytes_raw = 0;
  uint64_t bytes_wire = 0;
  base::Duration decode{};

  // guarded: the end
  bool finished = false;
  TransferOutcome outcome;
};

// One coded tile waiting for a decoder.
struct CodedTile {
  std::shared_ptr<ReceiverLink> link;
  std::shared_ptr<RecvTransfer> transfer;
  TileGrid::Tile tile;
  std::shared_ptr<const codec::TileCodec> codec;
  BufferPool::Buffer body;
  uint32_t body_crc = 0;
};

// One prefill node's connection.
struct ReceiverLink {
  std::string endpoint;
  std::thread reader;          // connects, then reads
  std::thread writer;          // started by the reader once there is a connection
  codec::Workspace workspace;  // the reader's, for decoding without decode threads

  // guarded
  std::unique_ptr<transport::Stream> stream;  // null until connected; then constant
  base::CondVar wake_writer;
  base::CondVar writer_ended;
  bool ready = false;  // HELLOs exchanged: PULLs may be sent
  bool closed = false;
  bool writer_running = false;
  uint16_t peer_minor = 0;  // of the prefill node's HELLO
  uint32_t next_stream = 1;
  std::map<uint32_t, std::shared_ptr<RecvTransfer>> streams;
  std::vector<std::shared_ptr<RecvTransfer>> waiting;  // for the connection
  std::deque<std::vector<std::byte>> control;
  uint64_t body_bytes_received = 0;
  uint64_t body_bytes_consumed = 0;
  uint64_t credit_limit = 0;  // as last written to the sender
  size_t largest_tile = 0;    // body bytes that any transfer of this link may send at once
  bool credit_due = false;
  base::TimePoint last_arrival;
  base::TimePoint last_tile;  // of any transfer: while there are tiles the others wait for their turn
  base::TimePoint last_ping;
};

}  // namespace kvplane::transfer
