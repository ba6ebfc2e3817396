// The plain structs of a KV transfer: what both ends agree on, what it cost, how it ended.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/tensor/kv_quality.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::transfer {

using Digest = std::array<std::byte, 32>;  // SHA-256

// Longest transfer id accepted from a peer or a client; ids are opaque and should be unguessable.
constexpr size_t kMaxTransferIdBytes = 128;

// What the prefill and the decode node must agree on before a byte of KV moves. Any difference is refused by
// name.
struct KvDescriptor {
  tensor::KvGeometry geometry;  // of the KV that moves: kv_heads are those of this transfer
  Digest model_fingerprint{};
  Digest token_hash{};  // HashTokens() of the prompt
  uint32_t tokens = 0;  // prompt tokens whose KV moves
  // Nodes that share a model by heads (head_shards.h) move heads [first_head, first_head + kv_heads) of
  // model_kv_heads; 0: those of the geometry are all there are.
  uint32_t first_head = 0;
  uint32_t model_kv_heads = 0;

  bool whole_model() const { return model_kv_heads == 0 || model_kv_heads == geometry.kv_heads; }
  tensor::KvGeometry ModelGeometry() const {
    tensor::KvGeometry model = geometry;
    if (model_kv_heads != 0) model.kv_heads = model_kv_heads;
    return model;
  }
};

// SHA-256 over the token ids as little-endian int32.
Digest HashTokens(std::span<const int32_t> tokens);

// The token the prefill node sampled after the prompt, sent ahead of queued tiles so that the client sees it
// early.
struct FirstToken {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top_logprobs;  // at most 20
};

// Stage times of both ends. Busy time: sums over tiles of the time a thread spent in the stage; `wall` is
// from the first posted layer (sender) or the request for it (receiver) to the end.
struct TransferTimes {
  base::Duration encode{};
  base::Duration send{};  // inside Stream::Write
  base::Duration decode{};
  base::Duration wall{};
  base::Duration exposed{};  // from the end of prefill to the last tile decoded: what the request waited
};

// How an offer ended that was never delivered, where that is known.
enum class OfferEnd : uint8_t {
  kOther,         // delivered, failed, cancelled
  kWithdrawn,     // who had asked for the prefill no longer wants the KV
  kLeaseExpired,  // the KV was complete, and nobody asked for it in time
};

// How a transfer ended. What the other node found comes under the code that node gave it. `status`:
// - OK: receiver: all KV is in the pages; sender: the receiver said so.
// - kCancelled: Cancel(), Withdraw(), or this node shuts down.
// - kDeadlineExceeded: the deadline has passed, or the lease of KV that nobody asked for; receiver: no
//   connection within connect_timeout, or an offer that had expired.
// - kUnavailable: the other node cannot be reached, or the connection broke or stalled.
// - kPermissionDenied: the other node is not who it must be (handshake of the transport).
// - kFailedPrecondition: the nodes do not agree: geometry, model, prompt, profile, loss and its amount, or
//   the id is being pulled already.
// - kUnimplemented: the other node lacks the data type, a stage, the tile size or the wire version.
// - kCorrupt: a tile came damaged more often than tile_retries, or the other node broke the protocol.
// - kResourceExhausted: too many pulls wait, or connections are open, at a node; no thread.
// - kNotFound: receiver: the id has been delivered already.
// - kInvalidArgument: sender: layers posted out of order, or a tile that its codec refuses.
struct TransferOutcome {
  base::Status status;
  OfferEnd offer_end = OfferEnd::kOther;
  std::string strategy;     // canonical text of what ran; several, joined by " / ", when the plan changed
  uint64_t bytes_raw = 0;   // bf16 bytes of the KV
  uint64_t bytes_wire = 0;  // everything on the wire for it: payload, tile headers, frames, retries
  uint32_t tiles = 0;
  uint32_t tiles_retried = 0;
  // Of the KV before `strategy` coded it, in thousandths: what was lost before, for instance in a store.
  uint16_t kv_quality = tensor::kExactQuality;
  TransferTimes times;
};

// Canonical texts of those of a transfer's strategies whose bit in `used` is set, in order, joined by " / ".
std::string DescribeUsed(std::span<const std::string> strategies, uint32_t used);

using OnComplete = std::function<void(TransferOutcome)>;
using OnFirstToken = std::function<void(FirstToken)>;

}  // namespace kvplane::transfer
