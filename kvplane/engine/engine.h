// Engine: continuous batching over one model, and the requests' life from queue to last token.
//
// One owner thread runs the step loop: it admits requests (sched), builds a ragged batch of prefill chunks
// and decode tokens, runs the model, samples, and feeds KV to or takes it from `transfer`. Requests are state
// machines (queued, prefilling, transferring, decoding, finished) touched by that thread only; Submit and
// Cancel post to it.
//
// Roles: every engine can do everything. A request with `remote_decode` is prefilled here and its KV offered
// under a transfer id; one with `remote_prefill` pulls its KV from another node and is decoded here. If that
// KV does not arrive intact in time the prompt is recomputed here: slower, never wrong.
//
// Prefixes: with a store (EngineOptions::prefix) the whole block runs at the beginning of a prompt are looked
// up, and loaded where that is faster than computing them; computed runs are pushed. docs/adr/0008 says who
// waits for whom.
//
// Determinism: for given weights, compute type and instruction set, greedy output does not depend on what
// else is in the batch, on chunk sizes, on where the prefill ran or on what came from a store (with lossless
// strategies).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/ids.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/engine/prefix_options.h"
#include "kvplane/model/model.h"
#include "kvplane/model/sampling.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/kv_sender.h"

namespace kvplane::engine {

struct EngineOptions {
  uint64_t kv_bytes = 512 << 20;  // memory of the paged cache
  uint32_t block_tokens = 64;     // tokens per block
  uint32_t step_tokens = 512;     // token budget of one step (prefill chunks + decode tokens); at least
                                  // max_running + 64, so that a prompt always advances
  uint32_t max_running = 64;      // requests in the running set
  uint32_t max_queued = 1024;     // Submit answers kResourceExhausted beyond it
  uint32_t max_context = 0;       // 0: the model's own limit
  // An offer or a pull fails after this long (or at the request's deadline, whichever is earlier). A failed
  // pull is recomputed.
  base::Duration transfer_timeout = std::chrono::seconds(30);
  // Computed KV that no decode node has asked for is dropped after this long: its decode node died, or the
  // request went elsewhere and nobody said so. What passes in health is one round trip of a proxy and the
  // decode node's queue; what is dropped too early is recomputed there.
  base::Duration offer_lease = std::chrono::seconds(10);
  codec::Strategy default_strategy{};  // of offers that name none
  // Of this model: the first is what this node codes with where a strategy needs one, all may be decoded with
  // (KvReceiverOptions holds the same).
  codec::ProfileSet profiles{};
  // Ends of sequence; empty: those of the model's config.json.
  std::vector<int32_t> eos_token_ids{};
  PrefixOptions prefix{};  // the store in which prefixes of prompts are looked up and kept
};

// This node prefills; another will pull the KV under `transfer_id`. One token is generated (max_tokens is
// taken as 1); it also travels with the KV.
struct RemoteDecode {
  std::string transfer_id;
  std::optional<codec::Strategy> strategy{};  // none: EngineOptions::default_strategy
  bool accept_lossy = true;                   // false: a lossy default gives way to `off`
};

// This node decodes; the KV and the first token come from `endpoint` under `transfer_id`.
struct RemotePrefill {
  std::string transfer_id;
  std::string endpoint;  // "tcp://HOST:PORT"
  bool accept_lossy = true;
};

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  model::SamplingParams sampling;
  uint32_t max_tokens = 16;
  uint32_t min_tokens = 0;  // end-of-sequence and stop ids are not sampled before
  bool ignore_eos = false;  // end-of-sequence ids do not end the request; stop_token_ids still do
  std::vector<int32_t> stop_token_ids;
  base::TimePoint deadline = base::kNoDeadline;
  bool accept_lossy = true;                   // false: only lossless KV is taken from the store
  std::optional<RemoteDecode> remote_decode;  // at most one of the two
  std::optional<RemotePrefill> remote_prefill;
};

enum class FinishReason { kStop, kLength, kCancelled, kFailed };

// Where the prompt's KV came from.
enum class KvSource { kLocal, kTransfer, kRecompute };

struct TokenEvent {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top_logprobs{};
  uint32_t index = 0;  // 0 for the first generated token
  bool stop = false;   // an end-of-sequence or stop id: counted, but not part of the text
};

// What became of the part of the prompt that the store may have had.
struct PrefixOutcome {
  uint32_t found_tokens = 0;   // in whole runs, at lookup
  uint32_t loaded_tokens = 0;  // of these, not computed
  uint64_t found_bytes = 0;    // coded
  std::string tier;            // the slowest that a found run lies in; empty: nothing was found
  base::Duration lookup{};
  base::Duration load{};  // from its start until the last run had landed or was the engine's
  std::string reason;     // why it was loaded, computed or not found
  std::string error;      // the first thing that went wrong with it
};

struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  base::Status status;  // why, for kFailed and kCancelled
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  uint32_t cached_tokens = 0;  // prompt tokens whose KV came from the store
  KvSource source = KvSource::kLocal;
  std::string recompute_reason;  // why the transfer failed, when source is kRecompute
  base::Duration queue{};        // submit to first scheduled
  base::Duration prefill{};      // first scheduled to first token (local prefill only)
  base::Duration ttft{};         // submit to first token
  base::Duration total{};
  std::optional<transfer::TransferOutcome> transfer{};
  std::optional<PrefixOutcome> prefix{};  // where the store was asked
};

// Receives a request's events on the engine's thread; must not block. OnFinish comes exactly once, last. For
// a request with remote_decode OnFinish comes after the first token, without waiting for the transfer's end.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnToken(const TokenEvent& event) = 0;
  virtual void OnFinish(const FinishEvent& event) = 0;
};

struct EngineStats {
  uint64_t requests_submitted = 0, requests_finished = 0, requests_failed = 0, requests_cancelled = 0;
  uint64_t prompt_tokens = 0, generated_tokens = 0, steps = 0;
  uint64_t transfers_sent = 0, transfers_received = 0, transfers_failed = 0, recomputes = 0;
  uint64_t offers_withdrawn = 0, offers_expired = 0;  // KV nobody wanted any more, or asked for in time
  uint64_t tiles_retried = 0;
  uint64_t kv_bytes_raw = 0, kv_bytes_wire = 0;  // sent and received
  uint32_t queued = 0, running = 0, transferring = 0, loading = 0;
  uint32_t blocks_total = 0, blocks_used = 0;
  double step_seconds = 0, gemm_seconds = 0, attention_seconds = 0;
  PrefixStats prefix{};
};

class Engine {
 public:
  virtual ~Engine() = default;  // cancels everything, joins the thread

  // `model`, sender and receiver must outlive the engine and are used by it alone; sender and receiver may be
  // null (no PD). kInvalidArgument: an option, or a cache too small for one block per layer;
  // kFailedPrecondition: the default strategy needs a profile and there is none, or a profile is of another
  // model; kResourceExhausted: no memory for the cache.
  static base::Result<std::unique_ptr<Engine>> Create(model::Model& model, const EngineOptions& options,
                                                      transfer::KvSender* sender,
                                                      transfer::KvReceiver* receiver);

  // Thread-safe. kInvalidArgument (empty prompt, ids outside the vocabulary, bad sampling, both remotes, bad
  // transfer id, loss both asked for and forbidden, a strategy this node cannot code), kResourceExhausted
  // (queue full, or prompt + max_tokens beyond the context or the cache: the message says which and the
  // limit), kFailedPrecondition (a remote without the sender or receiver for it), kUnavailable (draining).
  virtual base::Result<base::RequestId> Submit(Request request, std::shared_ptr<EventSink> sink) = 0;
  virtual void Cancel(base::RequestId id) = 0;  // thread-safe, idempotent; the sink still gets OnFinish

  // Nobody will fetch the KV of this transfer (KvSender::Withdraw). A request that still computes it goes on,
  // for its first token; one that is still queued is cancelled when its turn comes. Thread-safe.
  // kInvalidArgument: not a transfer id; kFailedPrecondition: this engine has no sender.
  virtual base::Result<transfer::Withdrawal> WithdrawOffer(std::string_view transfer_id) = 0;

  // Refuses new requests and waits for the running ones, and for what they push to the store, until
  // `deadline`, then cancels the rest and waits up to ten seconds more for transfers to let go of their
  // pages. Thread-safe, and may be called again; not from a sink, whose thread it would wait for.
  virtual void Drain(base::TimePoint deadline) = 0;
  // As of the last step; requests_submitted and queued as of now. Thread-safe.
  virtual EngineStats stats() const = 0;
  // With max_context and eos_token_ids resolved. Never changes: any thread.
  virtual const EngineOptions& options() const = 0;
};

}  // namespace kvplane::engine
