// What the sender remembers of a transfer and of a connection. Internal to kvplane/transfer.
//
// Fields after "guarded" are read and written only with SenderCore's mutex held; the others are constant
// once the object is shared. One mutex for all of it: critical sections are short (no I/O, no coding, no
// callbacks), tiles are tens of kilobytes, and there is no lock order to get wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/codec_cache.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/transfer/buffer_pool.h"
#include "kvplane/transfer/kv_sender.h"
#include "kvplane/transfer/link_turn.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transfer/wire_frames.h"

namespace kvplane::transfer {

struct SenderLink;

// The order on the link: the transfer whose turn it is, then its layers and tiles in order.
struct TileOrder {
  base::TimePoint turn;
  uint32_t layer = 0;
  uint32_t index = 0;
  uint64_t sequence = 0;  // of the transfer: ties end somewhere
  auto operator<=>(const TileOrder&) const = default;
};

struct TileNumber {
  uint32_t layer = 0;
  uint32_t index = 0;
  auto operator<=>(const TileNumber&) const = default;
};

struct SendTransfer {
  uint64_t sequence = 0;
  std::string id;
  KvDescriptor descriptor;
  std::vector<codec::Strategy> strategies;             // the offer's, then its alternatives
  std::vector<codec::SideCodecs> codecs;               // [strategies]
  std::vector<std::string> strategy_texts;             // [strategies]
  std::shared_ptr<const codec::ModelProfile> profile;  // null: no strategy needs one
  TileGrid grid;
  PageTable pages;
  base::TimePoint deadline;
  std::optional<base::Duration> lease;
  bool expects_first_token = true;

  // guarded: progress
  OnComplete on_complete;
  uint8_t current = 0;           // strategy of the tiles to come
  uint32_t used_strategies = 0;  // bit i: tiles were coded with strategy i
  uint16_t kv_quality = tensor::kExactQuality;
  std::vector<uint32_t> posted;     // tokens, by layer
  std::vector<uint32_t> next_tile;  // tiles handed to encoders, by layer
  uint32_t first_open_layer = 0;    // all tiles of the layers before it have been handed out
  uint32_t layers_posted = 0;       // layers whose every token is posted
  std::deque<TileNumber> resend;
  std::map<TileNumber, uint32_t> attempts;  // resends so far, of tiles that had any
  std::optional<TileOrder> runnable;        // its key in SenderCore's runnable set
  std::optional<FirstToken> first_token;
  base::TimePoint first_post;
  base::TimePoint prefill_end;

  std::optional<base::TimePoint> lease_end;  // its key in SenderCore's leases: complete, and not asked for

  // guarded: the pull that attached it
  base::TimePoint asked;
  base::TimePoint turn;
  std::shared_ptr<SenderLink> link;
  uint32_t stream = 0;
  uint16_t least_quality = 0;  // of the KV that the decode node takes

  // guarded: accounting
  uint32_t encoding = 0;        // encoders inside the pages now: the fence
  uint32_t queued = 0;          // coded tiles ready or being written
  uint32_t tiles_sent = 0;      // TILE frames written, resends included
  uint32_t tiles_distinct = 0;  // without resends
  uint32_t tiles_retried = 0;
  uint32_t done_at = 0;  // tiles_sent of the last DONE frame; 0: none yet
  uint64_t posted_bytes = 0;
  uint64_t bytes_raw = 0;
  uint64_t bytes_wire = 0;
  base::Duration encode{};
  base::Duration send{};

  // guarded: the end
  bool finished = false;
  TransferOutcome outcome;
};

inline LinkDemand DemandOf(const SendTransfer& transfer) {
  return {transfer.asked, transfer.deadline, transfer.grid.geometry.bytes_per_token() * transfer.grid.tokens};
}

// One coded tile on its way to the wire.
struct ReadyTile {
  std::shared_ptr<SendTransfer> transfer;
  TileGrid::Tile tile;
  std::vector<std::byte> frame;  // header and head
  BufferPool::Buffer body;
  bool resend = false;
};

struct ControlFrame {
  std::vector<std::byte> bytes;
  std::shared_ptr<SendTransfer> transfer;  // null for frames of the connection
};

// A link of which nothing is known yet counts as slow (1 MB/s), so that the first short transfers get past
// the first long one; what is measured soon outweighs it.
constexpr uint64_t kFirstPaceBytes = 64 << 10;
constexpr double kFirstPaceSeconds = 0.065536;

// One decode node's connection.
struct SenderLink {
  uint64_t number = 0;
  std::string host;  // of the peer
  std::unique_ptr<transport::Stream> stream;
  std::thread reader;
  std::thread writer;

  // guarded
  base::CondVar wake_writer;
  bool hello_received = false;
  bool closed = false;
  bool leaving = false;  // closes once the control frames are out: the last one says why
  int threads = 0;       // running; the link is joined when it reaches 0
  HelloFrame peer;
  std::map<uint32_t, std::shared_ptr<SendTransfer>> streams;
  std::map<uint32_t, std::string> waiting;  // stream -> transfer id of a PULL without an offer
  std::deque<ControlFrame> control;
  std::multimap<TileOrder, ReadyTile> ready;      // a peer may ask twice for the same tile
  Pace pace{kFirstPaceBytes, kFirstPaceSeconds};  // of writing, in bytes of KV before they were coded
  double turn_pace = kFirstPaceSeconds / kFirstPaceBytes;  // seconds per byte that all turns are made with
  std::optional<base::TimePoint> backlogged_since;         // the end of a write that left coded tiles behind
  size_t staged_bytes = 0;
  uint64_t credit_limit = 0;  // body bytes that may have been sent in all
  uint64_t body_bytes_sent = 0;
};

// How a transfer ended, for who asks later.
struct EndedTransfer {
  base::Status status;
  base::TimePoint withdrawn_until{};  // offers of its id are refused until then
};

struct WaitingPull {
  std::shared_ptr<SenderLink> link;
  uint32_t stream = 0;
  PullFrame pull;
  uint64_t bytes_received = 0;
  base::TimePoint expires;
};

}  // namespace kvplane::transfer
