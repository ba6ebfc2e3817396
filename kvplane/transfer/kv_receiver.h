// KvReceiver: the decode node's half. It pulls KV by transfer id and decodes tiles straight into cache pages.
//
// One connection per prefill node carries all transfers from it. Every tile is verified (frame CRC, tile CRC,
// geometry) before a byte of a page is written; a bad tile is asked for again (tile_retries), then the
// transfer fails and the engine recomputes. Whatever happens, `on_complete` is called exactly once, after the
// last write to the pages.
//
// Thread safety: all public members may be called from any thread. Callbacks run on the receiver's threads;
// they must not block or call back into the same object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/tensor/kv_view.h"
#include "kvplane/transfer/transfer.h"
#include "kvplane/transport/stream.h"

namespace kvplane::transfer {

struct KvReceiverOptions {
  size_t codec_threads = 1;  // 0: each connection's reader decodes its own tiles
  // Byte credits granted to one peer: coded tiles received and not yet decoded.
  size_t credit_bytes = 16 << 20;
  uint32_t tile_retries = 3;
  base::Duration connect_timeout = std::chrono::seconds(5);
  // A transfer on which nothing arrives for this long (after the prefill node accepted it) is failed, unless
  // tiles of others keep arriving from that node: the more urgent go first, then only the deadline counts.
  base::Duration stall_timeout = std::chrono::seconds(10);
  // What may be decoded with; told to every prefill node. At most kMaxHelloProfiles (wire_frames.h).
  codec::ProfileSet profiles{};
};

struct KvPull {
  std::string endpoint;  // the prefill node's: "tcp://HOST:PORT"
  std::string transfer_id;
  KvDescriptor descriptor;
  std::span<const tensor::LayerPages>
      layers;                    // [layers]; copied (addresses, not pages); cover descriptor.tokens
  uint32_t first_page_head = 0;  // the head of the pages where the descriptor's begin
  base::TimePoint deadline;
  bool accept_lossy = true;  // false: no loss at all, in the strategy or in the KV before it (strict reader)
  // KV that had lost more before the transfer (TransferOutcome::kv_quality), in a store for instance, is
  // refused with kFailedPrecondition, before its first token is told.
  uint16_t least_quality = 0;
  OnFirstToken on_first_token;  // at most once, before on_complete
  OnComplete on_complete;
};

// One pull. The engine's handle; dropping it changes nothing: the transfer goes on, and `on_complete` comes.
// It may outlive the receiver, which has ended the transfer then.
class RecvSession {
 public:
  virtual ~RecvSession() = default;
  // Ends the transfer; `on_complete` (kCancelled) marks the point after which no page is written.
  virtual void Cancel(std::string_view reason) = 0;
  // Layers whose every tile has been decoded, from 0 upwards without gaps.
  virtual uint32_t layers_ready() const = 0;
};

class KvReceiver {
 public:
  // Cancels what is open, runs the last callbacks, joins its threads.
  virtual ~KvReceiver() = default;
  // The transport must outlive the receiver. kInvalidArgument: a timeout that is not positive, more than
  // kMaxHelloProfiles profiles; kResourceExhausted: no threads. Connects to nobody yet.
  static base::Result<std::unique_ptr<KvReceiver>> Create(transport::Transport& transport,
                                                          const KvReceiverOptions& options);
  // Returns at once; connecting and everything after it happens on the receiver's threads. kInvalidArgument
  // (bad id, pages that do not fit the descriptor), kUnimplemented (dtype), kResourceExhausted (too many open
  // transfers or prefill nodes, no thread for a new one). `on_complete` comes only for a pull that was taken.
  virtual base::Result<std::shared_ptr<RecvSession>> Pull(KvPull pull) = 0;
};

}  // namespace kvplane::transfer
