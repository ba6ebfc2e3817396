// CompletionCall: one API request from its parsed form to the last byte of its answer.
//
// It submits prompts x n requests to the engine, turns their tokens into text (never half a character, never
// past a stop string), and writes a stream or one JSON object. The head of a stream is sent with its first
// event, so that a generation that fails before its first token still gets a proper HTTP status.
//
// Thread safety: the io thread, except that engine events arrive on the engine's thread and are posted on,
// and that long prompts are encoded on the node's TextWorker. Ownership: kept alive by its engine sinks and,
// while the client is there, by the exchange.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/engine/engine.h"
#include "kvplane/model/detokenizer.h"
#include "kvplane/server/api_request.h"
#include "kvplane/server/api_response.h"
#include "kvplane/server/http_exchange.h"
#include "kvplane/server/node_context.h"

namespace kvplane::server {

class CompletionCall : public std::enable_shared_from_this<CompletionCall> {
 public:
  // Answers `exchange`, now or later. The node must outlive the loop of the exchange.
  static void Start(NodeContext& node, std::shared_ptr<Exchange> exchange, ApiRequest request);

  CompletionCall(NodeContext& node, std::shared_ptr<Exchange> exchange, ApiRequest request, ApiWriter writer);

  // Engine events, on the io thread.
  void OnToken(size_t choice, const engine::TokenEvent& event);
  void OnFinish(size_t choice, const engine::FinishEvent& event);

 private:
  struct Choice {
    Choice(model::Detokenizer text_decoder, model::StopMatcher stop_matcher)
        : detokenizer(std::move(text_decoder)), matcher(std::move(stop_matcher)) {}

    model::Detokenizer detokenizer;
    model::StopMatcher matcher;
    base::RequestId id;
    bool submitted = false;
    bool stopped = false;  // by a stop string: later tokens do not count
    bool finished = false;
    bool announced = false;  // its first chunk is out
    uint32_t tokens = 0;
    ChoiceOutput output;  // not streaming: the whole; streaming: not yet sent
    engine::FinishEvent finish;
  };

  // Refuses what is refused before the prompts are looked at, and has them encoded.
  ApiResult<bool> Begin();
  void OnEncoded();
  ApiResult<bool> Submit(const std::vector<std::vector<int32_t>>& prompts);
  ApiResult<bool> SubmitChoice(const std::vector<int32_t>& prompt, uint32_t max_tokens, uint32_t nth);
  ApiError SubmitError(const base::Status& status) const;
  void AddText(Choice& choice, std::string_view text);
  void SendChunk(Choice& choice, const AnswerExtras& extras);
  void SendEvent(std::string_view json);
  void FinishChoice(Choice& choice, const engine::FinishEvent& event);
  void CountOutcome(const Choice& choice);
  void Complete();
  AnswerExtras FinalExtras() const;
  // Where this node's KV is to be fetched; empty: unknown.
  std::string_view KvHost() const;
  void Fail(const ApiError& error);
  void CancelAll();

  NodeContext& node_;
  const std::shared_ptr<Exchange> exchange_;
  ApiRequest request_;
  const ApiWriter writer_;
  const base::TimePoint deadline_;
  ApiResult<std::vector<std::vector<int32_t>>> prompts_;  // written by the text worker, until OnEncoded
  std::vector<Choice> choices_;
  size_t unfinished_ = 0;
  uint32_t prompt_tokens_ = 0;
  bool streaming_ = false;         // the head is out
  bool over_ = false;              // answered, failed or abandoned: later events count only for metrics
  std::atomic<bool> gone_{false};  // the client: nothing more need be encoded
};

}  // namespace kvplane::server
