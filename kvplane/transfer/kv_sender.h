// KvSender: the prefill node's half of a transfer. It serves KV to decode nodes that ask for it by transfer
// id.
//
// Life of a transfer (docs/formats/wire.md is normative): the engine Offer()s a transfer when it admits the
// prompt and posts layers while the forward pass runs; a decode node connects and PULLs the same id, before
// or after; tiles are encoded on codec threads, ordered on the shared link by (turn, layer), see link_turn.h,
// and written under the receiver's byte credits; the receiver's ACK (or a NACK, timeout, disconnect or
// Cancel) ends it. KV that nobody will fetch ends earlier: who drives the request withdraws it by its id, and
// where nobody does, its lease runs out. Because the decode node pulls, the same path serves a router that
// starts both nodes at once (layers stream while later layers are computed) and a vLLM-style proxy that calls
// the nodes one after the other (the KV waits, until the offer's deadline).
//
// Ownership: the caller keeps pages alive and unmodified from PostLayer() until `on_complete`, which is
// called exactly once per offer, on a thread of the sender, after the last access to the pages. Thread
// safety: all public members may be called from any thread. Callbacks must not block or call back into the
// same object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"  // Strategy
#include "kvplane/tensor/kv_view.h"
#include "kvplane/transfer/transfer.h"
#include "kvplane/transport/stream.h"

namespace kvplane::transfer {

struct KvSenderOptions {
  std::string endpoint = "tcp://127.0.0.1:0";
  size_t codec_threads = 1;  // 0 counts as 1
  // Coded tiles waiting for the wire, all transfers together; one oversize tile may exceed it.
  // Shared evenly by the connected decode nodes, so that a stalled one does not stop the others.
  size_t staging_bytes = 32 << 20;
  size_t max_offers = 4096;  // open transfers; more are refused with kResourceExhausted
  uint32_t tile_retries = 3;
};

struct KvOffer {
  std::string transfer_id;
  KvDescriptor descriptor;
  codec::Strategy strategy;
  // Strategies that UseStrategy() may change to, at most kMaxStrategiesPerOpen - 1. The receiver is told of
  // all of them at the start and must be able (and willing, where they are lossy) to decode each.
  std::vector<codec::Strategy> alternatives{};
  // What the strategies code with where they need one; the receiver must have it too. Of this model.
  std::shared_ptr<const codec::ModelProfile> profile{};
  std::span<const tensor::LayerPages> layers;  // [layers]; copied (addresses, not pages)
  uint32_t first_page_head = 0;                // the head of the pages where the descriptor's begin
  base::TimePoint deadline;                    // the transfer fails with kDeadlineExceeded at this time
  // How long complete KV (every layer posted, and the first token where one is expected) waits for a decode
  // node to ask for it. None: until the deadline.
  std::optional<base::Duration> lease{};
  OnComplete on_complete;
  // The transfer is complete only after PostFirstToken(), so that the token is never lost behind a fast
  // acknowledgement. False for transfers without one.
  bool expects_first_token = true;
};

// One offered transfer. The engine's handle; dropping it does not cancel.
class SendSession {
 public:
  virtual ~SendSession() = default;
  // K and V of tokens [first_token, first_token + tokens) of `layer` are in the pages. Each layer is posted
  // in token order without gaps; tiles leave as soon as they are full (or the prompt ends).
  virtual void PostLayer(uint32_t layer, uint32_t first_token, uint32_t tokens) = 0;
  // Once; sent ahead of queued tiles.
  virtual void PostFirstToken(FirstToken token) = 0;
  // Tiles not yet being coded are coded with strategy `number` of the offer from now on: 0 is its `strategy`,
  // i its alternatives[i - 1]. So a plan may change when the link does. kInvalidArgument: no such number.
  virtual base::Status UseStrategy(size_t number) = 0;
  // Some of the KV in the pages is not what the model computes (kExactQuality): the receiver is told the
  // least of all calls, and where it does not take that the transfer ends with kFailedPrecondition. Before
  // the first token and the last PostLayer().
  virtual void LowerQuality(uint16_t thousandths) = 0;
  // Ends the transfer with kCancelled (the peer is told why); `on_complete` still fires.
  virtual void Cancel(std::string_view reason) = 0;
};

// What Withdraw() found.
enum class Withdrawal : uint8_t {
  kWithdrawn,  // offered, and nobody had asked for it
  kAborted,    // a decode node was fetching it, and has been told that the rest will not come
  kEnded,      // it was over already: delivered, failed or withdrawn
  kUnknown,    // not offered here, as far as is remembered
};

// How long a withdrawn id is refused to later offers: what was on its way to this node when its driver gave
// it up (a request queued, or still in a socket) comes within that time or finds its client gone.
constexpr base::Duration kWithdrawnMemory = std::chrono::seconds(60);

class KvSender {
 public:
  // Cancels what is open, runs the last callbacks, joins its threads. Sessions may be kept; their calls
  // then do nothing.
  virtual ~KvSender() = default;
  // Listens at options.endpoint. The transport must outlive the sender. Errors: those of Transport::Listen();
  // kResourceExhausted: no threads.
  static base::Result<std::unique_ptr<KvSender>> Create(transport::Transport& transport,
                                                        const KvSenderOptions& options);

  // kInvalidArgument (bad id, duplicate id, pages that do not fit the descriptor), kUnimplemented (dtype or
  // strategy), kFailedPrecondition (the strategy needs a profile: none given, or of another model),
  // kResourceExhausted (max_offers), kCancelled (withdrawn before it was offered). `on_complete` comes only
  // for an offer that was taken.
  virtual base::Result<std::shared_ptr<SendSession>> Offer(KvOffer offer) = 0;

  // Nobody wants the KV of this transfer any more: it ends with kCancelled, `on_complete` follows as ever
  // after the last access to the pages, and pulls of it, waiting or to come, are refused. A fetch that is
  // under way is aborted: who withdraws has given up the decode node that fetches. Idempotent; offers of the
  // id are refused for kWithdrawnMemory. kInvalidArgument: not a transfer id.
  virtual base::Result<Withdrawal> Withdraw(std::string_view transfer_id) = 0;

  // What Offer() would say of this strategy; a strategy asked for once is ready for later offers.
  virtual base::Status CheckStrategy(const codec::Strategy& strategy,
                                     std::shared_ptr<const codec::ModelProfile> profile) = 0;

  virtual std::string endpoint() const = 0;  // with the real port
  // Bytes posted but not yet acknowledged, all transfers (the link's backlog), in raw bytes.
  virtual uint64_t backlog_bytes() const = 0;
};

}  // namespace kvplane::transfer
