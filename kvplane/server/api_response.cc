#include "kvplane/server/api_response.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace kvplane::server {
namespace {

using json = nlohmann::ordered_json;

// JSON has no infinity; OpenAI's servers send this for an impossible token.
constexpr double kLowestLogprob = -9999.0;

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

double Logprob(float logprob) { return std::isfinite(logprob) ? double{logprob} : kLowestLogprob; }

std::string_view SourceName(engine::KvSource source) {
  switch (source) {
    case engine::KvSource::kLocal:
      return "local";
    case engine::KvSource::kTransfer:
      return "transfer";
    case engine::KvSource::kRecompute:
      return "recompute";
  }
  return "local";
}

json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

json TransferJson(const transfer::TransferOutcome& outcome) {
  const double wire = std::max<double>(1.0, static_cast<double>(outcome.bytes_wire));
  json out = {{"strategy", outcome.strategy},
              {"bytes_raw", outcome.bytes_raw},
              {"bytes_wire", outcome.bytes_wire},
              {"ratio", static_cast<double>(outcome.bytes_raw) / wire},
              {"encode_ms", base::ToMillis(outcome.times.encode)},
              {"send_ms", base::ToMillis(outcome.times.send)},
              {"decode_ms", base::ToMillis(outcome.times.decode)},
              {"wall_ms", base::ToMillis(outcome.times.wall)},
              {"exposed_ms", base::ToMillis(outcome.times.exposed)},
              {"tiles", outcome.tiles},
              {"tiles_retried", outcome.tiles_retried}};
  if (outcome.status.ok()) out["quality"] = outcome.kv_quality;
  return out;
}

json PrefixJson(const engine::PrefixOutcome& outcome) {
  json out = {{"found_tokens", outcome.found_tokens},
              {"loaded_tokens", outcome.loaded_tokens},
              {"found_bytes", outcome.found_bytes},
              {"tier", outcome.tier},
              {"lookup_ms", base::ToMillis(outcome.lookup)},
              {"load_ms", base::ToMillis(outcome.load)},
              {"reason", outcome.reason}};
  if (!outcome.error.empty()) out["error"] = outcome.error;
  return out;
}

json ExtensionJson(const engine::FinishEvent& finish) {
  json out = {{"ttft_ms", base::ToMillis(finish.ttft)},
              {"queue_ms", base::ToMillis(finish.queue)},
              {"prefill_ms", base::ToMillis(finish.prefill)},
              {"total_ms", base::ToMillis(finish.total)},
              {"source", SourceName(finish.source)}};
  if (finish.source == engine::KvSource::kRecompute) out["recompute_reason"] = finish.recompute_reason;
  if (finish.transfer) out["transfer"] = TransferJson(*finish.transfer);
  if (finish.prefix) out["prefix"] = PrefixJson(*finish.prefix);
  return out;
}

json ReplyJson(const TransferReply& reply) {
  return {{"do_remote_prefill", true},
          {"do_remote_decode", false},
          {"transfer_id", reply.transfer_id},
          {"remote_engine_id", reply.engine_id},
          {"remote_request_id", reply.request_id},
          {"remote_host", reply.host},
          {"remote_port", reply.port},
          {"remote_block_ids", json::array()}};
}

void AddExtras(json& body, const AnswerExtras& extras) {
  if (extras.usage) body["usage"] = UsageJson(*extras.usage);
  if (extras.transfer) body["kv_transfer_params"] = ReplyJson(*extras.transfer);
  if (extras.finish) body["kvplane"] = ExtensionJson(*extras.finish);
}

json ByteValues(std::string_view piece) {
  json bytes = json::array();
  for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
json CompletionLogprobs(const model::Tokenizer& tokenizer, const ChoiceOutput& choice) {
  json tokens = json::array(), logprobs = json::array(), tops = json::array(), offsets = json::array();
  size_t offset = choice.text_offset;
  for (const engine::TokenEvent& event : choice.tokens) {
    const std::string_view piece = tokenizer.IdToPiece(event.id);
    tokens.push_back(piece);
    logprobs.push_back(Logprob(event.logprob));
    json top = json::object();
    for (const auto& [id, logprob] : event.top_logprobs) {
      top[std::string(tokenizer.IdToPiece(id))] = Logprob(logprob);
    }
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    offset += CharacterCount(piece);
  }
  return {{"tokens", tokens}, {"token_logprobs", logprobs}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}
json ChatLogprobs(const model::Tokenizer& tokenizer, const ChoiceOutput& choice) {
  const auto entry = [&](int32_t id, float logprob) {
    const std::string_view piece = tokenizer.IdToPiece(id);
    return json{{"token", piece}, {"logprob", Logprob(logprob)}, {"bytes", ByteValues(piece)}};
  };
  json content = json::array();
  for (const engine::TokenEvent& event : choice.tokens) {
    json item = entry(event.id, event.logprob);
    item["top_logprobs"] = json::array();
    for (const auto& [id, logprob] : event.top_logprobs) item["top_logprobs"].push_back(entry(id, logprob));
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

std::string_view ObjectName(ApiKind kind, bool chunk) {
  if (kind == ApiKind::kCompletion) return "text_completion";
  return chunk ? "chat.completion.chunk" : "chat.completion";
}

json Head(const ApiWriterOptions& options, bool chunk) {
  return {{"id", options.id},
          {"object", ObjectName(options.kind, chunk)},
          {"created", options.created_unix_s},
          {"model", options.model},
          {"choices", json::array()}};
}

json ChoiceJson(const model::Tokenizer& tokenizer, const ApiWriterOptions& options,
                const ChoiceOutput& choice, bool chunk) {
  json out = {{"index", choice.index}};
  if (options.kind == ApiKind::kCompletion) {
    out["text"] = choice.text;
  } else if (chunk) {
    out["delta"] = json::object();
    if (choice.first) out["delta"]["role"] = "assistant";
    if (choice.first || !choice.text.empty()) out["delta"]["content"] = choice.text;
  } else {
    out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  }
  out["logprobs"] = nullptr;
  if (options.logprobs && !choice.tokens.empty()) {
    out["logprobs"] = options.kind == ApiKind::kCompletion ? CompletionLogprobs(tokenizer, choice)
                                                           : ChatLogprobs(tokenizer, choice);
  }
  out["finish_reason"] = choice.finish_reason.empty() ? json() : json(choice.finish_reason);
  if (options.token_ids) {
    out["token_ids"] = json::array();
    for (const engine::TokenEvent& event : choice.tokens) out["token_ids"].push_back(event.id);
  }
  return out;
}

}  // namespace

size_t CharacterCount(std::string_view utf8) {
  return static_cast<size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;  // not a continuation byte
  }));
}

std::string ApiWriter::Chunk(const ChoiceOutput& choice, const AnswerExtras& extras) const {
  json body = Head(options_, /*chunk=*/true);
  body["choices"].push_back(ChoiceJson(tokenizer_, options_, choice, /*chunk=*/true));
  if (options_.null_usage) body["usage"] = nullptr;
  AddExtras(body, extras);
  return Dump(body);
}

std::string ApiWriter::ExtrasChunk(const AnswerExtras& extras) const {
  json body = Head(options_, /*chunk=*/true);
  AddExtras(body, extras);
  return Dump(body);
}

std::string ApiWriter::Answer(std::span<const ChoiceOutput> choices, const AnswerExtras& extras) const {
  json body = Head(options_, /*chunk=*/false);
  for (const ChoiceOutput& choice : choices) {
    body["choices"].push_back(ChoiceJson(tokenizer_, options_, choice, /*chunk=*/false));
  }
  AddExtras(body, extras);
  return Dump(body);
}

}  // namespace kvplane::server
