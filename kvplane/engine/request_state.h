// RequestState: everything the engine knows about one request, touched by the engine's thread only (before
// that by the Submit that builds it).
//
//            Submit          admitted                 prompt done            last token
//   (new) ---------> kQueued ---------> kPrefill ----------------> kDecode -----------> kFinished
//                       |                  ^  recompute               ^
//                       +-> kAwaitingKv ---+------- KV landed --------+
//
// Every phase may go to kFinished (cancelled, failed). A finished request whose transfer, load or push is
// still open keeps its pages until all of them are done: that is the fence after which nobody reads or writes
// them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/ids.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/request_pages.h"
#include "kvplane/engine/request_prefix.h"
#include "kvplane/model/sampling.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/kv_sender.h"

namespace kvplane::engine {

enum class Phase : uint8_t { kQueued, kAwaitingKv, kPrefill, kDecode, kFinished };

struct RequestState {
  base::RequestId id;
  Request request;
  std::shared_ptr<EventSink> sink;
  codec::Strategy strategy;                            // of its offer, decided by control
  std::shared_ptr<const codec::ModelProfile> profile;  // what the strategy codes with, where it needs one
  std::vector<int32_t> end_ids;  // tokens that end it: end-of-sequence unless ignored, and stop ids
  uint32_t max_tokens = 0;       // 1 with remote_decode
  uint32_t reserve_blocks = 0;   // claim on the pool from admission to retirement

  Phase phase = Phase::kQueued;
  uint32_t prompt_done = 0;        // prompt tokens whose KV is in the pages (kPrefill)
  std::vector<int32_t> generated;  // the last one's KV is not in the pages yet
  std::optional<model::Sampler> sampler;
  std::optional<RequestPages> pages;  // from admission to retirement

  // The transfer. `transfer_open` from a successful Offer or Pull to its completion.
  std::shared_ptr<transfer::SendSession> send;
  std::shared_ptr<transfer::RecvSession> receive;
  bool transfer_open = false;
  bool transfer_cancelled = false;  // by us: its end is no failure
  std::optional<transfer::TransferOutcome> outcome;
  KvSource source = KvSource::kLocal;
  std::string recompute_reason;

  RequestPrefix prefix;

  base::TimePoint submitted;
  std::optional<base::TimePoint> scheduled;    // first admitted
  std::optional<base::TimePoint> first_token;  // emitted

  uint32_t prompt_tokens() const { return static_cast<uint32_t>(request.prompt.size()); }
  // Tokens whose KV a step over the last generated token needs in the pages, that one included.
  uint32_t decode_tokens() const { return prompt_tokens() + static_cast<uint32_t>(generated.size()); }
  bool finished() const { return phase == Phase::kFinished; }
  // Somebody else may still touch its pages.
  bool fenced() const { return transfer_open || prefix.load_open || prefix.pushes_open > 0; }
  bool Ends(int32_t token) const;

  // Consumes the sampler's draw for a token that another node sampled, so that a seeded request goes on as it
  // would have in one process. kCorrupt: the id is outside the vocabulary; other errors: this request's own
  // parameters cannot give the token. Nothing is consumed then.
  base::Status SkipDraw(int32_t token, size_t vocab);

  // Ends the open transfer, if any; its completion still comes.
  void CancelTransfer(std::string_view reason);

  FinishEvent MakeFinishEvent(FinishReason reason, base::Status status, base::TimePoint now) const;
};

// Tokens whose KV a request can come to hold: the last generated token is never fed back.
constexpr uint32_t MaxKvTokens(uint32_t prompt_tokens, uint32_t max_tokens) {
  return prompt_tokens + max_tokens - 1;
}

}  // namespace kvplane::engine
