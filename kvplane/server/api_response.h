// ApiWriter: completion and chat answers as OpenAI's JSON, whole or chunk by chunk.
//
// The last chunk (and a whole answer) carries our `kvplane` object: times, where the prompt's KV came from
// and what its transfer cost. docs/api.md describes every field.
//
// Thread safety: const methods are safe from many threads. The tokenizer must outlive the writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/engine/engine.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/server/api_request.h"

namespace kvplane::server {

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  uint32_t cached_tokens = 0;
};

// What a prefill answer tells the decode node, in vLLM's words.
struct TransferReply {
  std::string transfer_id;
  std::string engine_id;
  std::string request_id;
  std::string host;
  uint16_t port = 0;
};

// One choice of a whole answer, or what one chunk adds to it.
struct ChoiceOutput {
  uint32_t index = 0;
  bool first = false;  // the first chunk of the choice
  std::string text;
  std::vector<engine::TokenEvent> tokens;
  size_t text_offset = 0;          // characters of the choice before `tokens`
  std::string_view finish_reason;  // empty: not finished
};

// What stands beside the choices.
struct AnswerExtras {
  std::optional<Usage> usage;
  std::optional<engine::FinishEvent> finish;  // becomes `kvplane`
  std::optional<TransferReply> transfer;      // becomes `kv_transfer_params`
};

struct ApiWriterOptions {
  ApiKind kind = ApiKind::kCompletion;
  std::string id;
  std::string model;
  int64_t created_unix_s = 0;
  bool logprobs = false;
  bool token_ids = false;
  bool null_usage = false;  // chunks before the one with the usage say "usage": null
};

class ApiWriter {
 public:
  ApiWriter(const model::Tokenizer& tokenizer, ApiWriterOptions options)
      : tokenizer_(tokenizer), options_(std::move(options)) {}

  std::string Chunk(const ChoiceOutput& choice, const AnswerExtras& extras) const;
  // A chunk without choices, for stream_options.include_usage.
  std::string ExtrasChunk(const AnswerExtras& extras) const;
  std::string Answer(std::span<const ChoiceOutput> choices, const AnswerExtras& extras) const;

  const std::string& id() const { return options_.id; }

 private:
  const model::Tokenizer& tokenizer_;
  const ApiWriterOptions options_;
};

// Code points of UTF-8 text.
size_t CharacterCount(std::string_view utf8);

}  // namespace kvplane::server
