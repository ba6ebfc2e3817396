#include "kvplane/server/completion_call.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "kvplane/server/prompt_tokens.h"
#include "kvplane/server/random_id.h"

namespace kvplane::server {
namespace {

using engine::FinishReason;

// Posts the engine's events to the io thread. The engine may hold it longer than the server lives.
class ChoiceSink final : public engine::EventSink {
 public:
  ChoiceSink(std::shared_ptr<CompletionCall> call, std::shared_ptr<Exchange> exchange, size_t choice)
      : call_(std::move(call)), exchange_(std::move(exchange)), choice_(choice) {}

  void OnToken(const engine::TokenEvent& event) override {
    exchange_->Post([call = call_, choice = choice_, event] { call->OnToken(choice, event); });
  }
  void OnFinish(const engine::FinishEvent& event) override {
    exchange_->Post([call = call_, choice = choice_, event] { call->OnFinish(choice, event); });
  }

 private:
  const std::shared_ptr<CompletionCall> call_;
  const std::shared_ptr<Exchange> exchange_;
  const size_t choice_;
};

std::string_view ReasonName(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

std::string_view OutcomeName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kFailed:
      return "failed";
  }
  return "failed";
}

// "tcp://host:port" or another scheme, an IPv6 literal in brackets.
std::string KvEndpoint(std::string_view scheme, const TransferParams& params) {
  const bool literal_v6 =
      params.remote_host.find(':') != std::string::npos && params.remote_host.front() != '[';
  return fmt::format(fmt::runtime(literal_v6 ? "{}://[{}]:{}" : "{}://{}:{}"), scheme, params.remote_host,
                     params.remote_port);
}

}  // namespace

void CompletionCall::Start(NodeContext& node, std::shared_ptr<Exchange> exchange, ApiRequest request) {
  ApiWriterOptions options;
  options.kind = request.kind;
  options.id = (request.kind == ApiKind::kChat ? "chatcmpl-" : "cmpl-") + RandomHex(12);
  options.model = node.model_name;
  options.created_unix_s = static_cast<int64_t>(base::Clock::System().UnixSeconds());
  options.logprobs = request.sampling.logprobs.has_value();
  options.token_ids = request.return_token_ids;
  options.null_usage = request.include_usage;
  const auto call = std::make_shared<CompletionCall>(node, exchange, std::move(request),
                                                     ApiWriter(node.tokenizer, std::move(options)));
  exchange->OnGone([call] {
    call->over_ = true;
    call->gone_ = true;
    call->CancelAll();
  });
  if (const auto begun = call->Begin(); !begun) call->Fail(begun.error());
}

CompletionCall::CompletionCall(NodeContext& node, std::shared_ptr<Exchange> exchange, ApiRequest request,
                               ApiWriter writer)
    : node_(node),
      exchange_(std::move(exchange)),
      request_(std::move(request)),
      writer_(std::move(writer)),
      deadline_(base::Clock::System().Now() + node.request_timeout) {}

ApiResult<bool> CompletionCall::Begin() {
  if (request_.transfer && request_.transfer->do_remote_decode) {
    if (node_.info.kv_port == 0) {
      return tl::make_unexpected(
          BadField("kv_transfer_params", "this node serves no KV (role prefill does)"));
    }
    if (KvHost().empty()) {
      return tl::make_unexpected(BadField("kv_transfer_params",
                                          "this node listens for KV on all its addresses: send a Host header "
                                          "with the one to use, or start it with --kv-advertise"));
    }
    if (request_.transfer->transfer_id.empty()) request_.transfer->transfer_id = RandomHex(16);
  }
  const auto self = shared_from_this();
  const auto encode = [self] {
    if (!self->gone_) self->prompts_ = EncodePrompts(self->node_, self->request_);
  };
  const bool taken = node_.texts.Run(exchange_, TextBytes(request_), encode, [self] { self->OnEncoded(); });
  if (!taken) return tl::make_unexpected(TextsWaiting());
  return true;
}

void CompletionCall::OnEncoded() {
  if (over_) return;
  const auto prompts = std::move(prompts_);
  if (!prompts) return Fail(prompts.error());
  if (const auto submitted = Submit(*prompts); !submitted) Fail(submitted.error());
}

ApiResult<bool> CompletionCall::Submit(const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<uint32_t> max_tokens;
  for (const auto& prompt : prompts) {
    const auto resolved = ResolveMaxTokens(node_, request_, prompt.size());
    if (!resolved) return tl::make_unexpected(resolved.error());
    max_tokens.push_back(*resolved);
    prompt_tokens_ += static_cast<uint32_t>(prompt.size());
  }
  choices_.reserve(prompts.size() * request_.n);
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (uint32_t nth = 0; nth < request_.n; ++nth) {
      const auto submitted = SubmitChoice(prompts[i], max_tokens[i], nth);
      if (!submitted) return submitted;
    }
  }
  return true;
}

ApiResult<bool> CompletionCall::SubmitChoice(const std::vector<int32_t>& prompt, uint32_t max_tokens,
                                             uint32_t nth) {
  auto matcher = model::StopMatcher::Create(request_.stop);
  if (!matcher.ok()) return tl::make_unexpected(BadField("stop", matcher.status().message()));
  const size_t index = choices_.size();
  Choice& choice = choices_.emplace_back(
      model::Detokenizer(node_.tokenizer, {.skip_special = true, .at_text_start = false}),
      *std::move(matcher));
  choice.output.index = static_cast<uint32_t>(index);

  engine::Request request;
  request.prompt = prompt;
  request.sampling = request_.sampling;
  // Distinct but reproducible draws for the choices of one seeded request.
  if (request.sampling.seed) *request.sampling.seed += nth;
  request.max_tokens = max_tokens;
  request.min_tokens = std::min(request_.min_tokens, max_tokens);
  request.ignore_eos = request_.ignore_eos;
  request.stop_token_ids = request_.stop_token_ids;
  request.deadline = deadline_;
  request.accept_lossy = request_.accept_lossy;
  if (request_.transfer && request_.transfer->do_remote_decode) {
    request.remote_decode = engine::RemoteDecode{.transfer_id = request_.transfer->transfer_id,
                                                 .strategy = request_.strategy,
                                                 .accept_lossy = request_.accept_lossy};
  } else if (request_.transfer) {
    request.remote_prefill =
        engine::RemotePrefill{.transfer_id = request_.transfer->transfer_id,
                              .endpoint = KvEndpoint(node_.info.kv_transport, *request_.transfer),
                              .accept_lossy = request_.accept_lossy};
  }
  const auto id = node_.engine.Submit(std::move(request),
                                      std::make_shared<ChoiceSink>(shared_from_this(), exchange_, index));
  if (!id.ok()) return tl::make_unexpected(SubmitError(id.status()));
  choice.id = *id;
  choice.submitted = true;
  ++unfinished_;
  return true;
}

// The engine has one code for "too much"; only a full queue is worth a retry.
ApiError CompletionCall::SubmitError(const base::Status& status) const {
  if (status.code() == base::StatusCode::kUnavailable) return Draining();
  const bool queue_full = node_.engine.stats().queued >= node_.engine.options().max_queued;
  if (status.code() == base::StatusCode::kResourceExhausted && !queue_full) {
    return TooLong(request_.kind == ApiKind::kChat ? "messages" : "prompt", status.message());
  }
  if (status.code() == base::StatusCode::kFailedPrecondition) {
    return BadField("kv_transfer_params", status.message());
  }
  return ToApiError(status);
}

void CompletionCall::OnToken(size_t index, const engine::TokenEvent& event) {
  Choice& choice = choices_[index];
  if (over_ || choice.stopped || choice.finished) return;
  ++choice.tokens;
  choice.output.tokens.push_back(event);
  // The end-of-sequence or stop token is counted and listed, but its text is not part of the answer.
  if (!event.stop) AddText(choice, choice.detokenizer.Push(event.id));
  if (choice.stopped) node_.engine.Cancel(choice.id);
  const bool visible = !choice.output.text.empty() || request_.return_token_ids ||
                       request_.sampling.logprobs.has_value() || !choice.announced;
  if (request_.stream && visible) SendChunk(choice, {});
}

void CompletionCall::AddText(Choice& choice, std::string_view text) {
  if (text.empty()) return;
  model::StopMatcher::Output shown = choice.matcher.Push(text);
  choice.output.text += shown.text;
  choice.stopped = shown.stopped;
}

void CompletionCall::SendChunk(Choice& choice, const AnswerExtras& extras) {
  choice.output.first = !std::exchange(choice.announced, true);
  SendEvent(writer_.Chunk(choice.output, extras));
  for (const engine::TokenEvent& event : choice.output.tokens) {
    choice.output.text_offset += CharacterCount(node_.tokenizer.IdToPiece(event.id));
  }
  choice.output.text.clear();
  choice.output.tokens.clear();
}

void CompletionCall::SendEvent(std::string_view json) {
  if (!streaming_) {
    streaming_ = true;
    HttpResponse head;
    head.headers.Set("Content-Type", "text/event-stream; charset=utf-8");
    head.headers.Set("Cache-Control", "no-cache");
    exchange_->BeginStream(std::move(head));
  }
  exchange_->Write(SseEvent(json));
}

void CompletionCall::OnFinish(size_t index, const engine::FinishEvent& event) {
  Choice& choice = choices_[index];
  if (choice.finished) return;
  choice.finished = true;
  --unfinished_;
  choice.finish = event;
  CountOutcome(choice);
  if (over_) return;
  const bool answered =
      choice.stopped || event.reason == FinishReason::kStop || event.reason == FinishReason::kLength;
  if (!answered) {
    Fail(ToApiError(event.status.ok() ? base::Internal("the generation ended without a reason")
                                      : event.status));
    return;
  }
  FinishChoice(choice, event);
  if (unfinished_ == 0) Complete();
}

void CompletionCall::FinishChoice(Choice& choice, const engine::FinishEvent& event) {
  if (!choice.stopped) {
    AddText(choice, choice.detokenizer.Flush());
    choice.output.text += choice.matcher.Flush();
  }
  choice.output.finish_reason = choice.stopped ? "stop" : ReasonName(event.reason);
  if (!request_.stream) return;
  const bool last = unfinished_ == 0 && !request_.include_usage;
  AnswerExtras extras;
  if (last) {
    extras = FinalExtras();
    extras.usage.reset();  // OpenAI sends usage in streams only when asked
  }
  SendChunk(choice, extras);
}

void CompletionCall::CountOutcome(const Choice& choice) {
  const std::string_view outcome = choice.stopped ? "stop" : OutcomeName(choice.finish.reason);
  node_.metrics.CountGeneration(outcome, choice.finish.generated_tokens, choice.finish.ttft,
                                choice.finish.total);
}

std::string_view CompletionCall::KvHost() const {
  return node_.info.kv_host.empty() ? exchange_->request().host() : std::string_view(node_.info.kv_host);
}

AnswerExtras CompletionCall::FinalExtras() const {
  AnswerExtras extras;
  Usage usage;
  usage.prompt_tokens = prompt_tokens_;
  for (size_t i = 0; i < choices_.size(); ++i) {
    usage.completion_tokens += choices_[i].tokens;
    // The n choices of a prompt share it: count its cached tokens once, as its tokens are.
    if (i % request_.n == 0) usage.cached_tokens += choices_[i].finish.cached_tokens;
  }
  extras.usage = usage;
  extras.finish = choices_.front().finish;
  if (request_.transfer && request_.transfer->do_remote_decode) {
    extras.transfer = TransferReply{.transfer_id = request_.transfer->transfer_id,
                                    .engine_id = node_.info.engine_id,
                                    .request_id = writer_.id(),
                                    .host = std::string(KvHost()),
                                    .port = node_.info.kv_port};
  }
  return extras;
}

void CompletionCall::Complete() {
  over_ = true;
  if (!request_.stream) {
    std::vector<ChoiceOutput> outputs;
    for (Choice& choice : choices_) outputs.push_back(std::move(choice.output));
    node_.metrics.CountHttp(exchange_->request().path(), 200);
    exchange_->Respond(JsonResponse(writer_.Answer(outputs, FinalExtras())));
    return;
  }
  if (request_.include_usage) SendEvent(writer_.ExtrasChunk(FinalExtras()));
  node_.metrics.CountHttp(exchange_->request().path(), 200);
  exchange_->Write(kSseDone);
  exchange_->End();
}

void CompletionCall::Fail(const ApiError& error) {
  if (std::exchange(over_, true)) return;
  CancelAll();
  node_.metrics.CountHttp(exchange_->request().path(), error.status);
  if (!streaming_) {
    exchange_->Respond(ErrorResponse(error));
    return;
  }
  exchange_->Write(SseEvent(ErrorJson(error)));
  exchange_->End();
}

void CompletionCall::CancelAll() {
  for (const Choice& choice : choices_) {
    if (choice.submitted && !choice.finished) node_.engine.Cancel(choice.id);
  }
}

}  // namespace kvplane::server
