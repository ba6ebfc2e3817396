// From a request's prompts or messages to token ids that fit the model.
//
// Thread safety: pure over const objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvplane/server/api_error.h"
#include "kvplane/server/api_request.h"
#include "kvplane/server/node_context.h"

namespace kvplane::server {

// Bytes of the longest token of the vocabulary, at least 1.
size_t LongestPieceBytes(const model::Tokenizer& tokenizer);

// Bytes of the texts among the prompts or messages: the measure of what EncodePrompts has to do.
size_t TextBytes(const ApiRequest& request);

// One list of ids per prompt (chat: one in all). 400: not UTF-8, ids beyond the vocabulary, no chat template,
// a template that refuses; 413: longer than the context, said before long texts are encoded.
ApiResult<std::vector<std::vector<int32_t>>> EncodePrompts(const NodeContext& node,
                                                           const ApiRequest& request);

// max_tokens for a prompt of that length: the request's own, or OpenAI's default (16 for completions, the
// rest of the context for chat). 413 when prompt and max_tokens together exceed the context.
ApiResult<uint32_t> ResolveMaxTokens(const NodeContext& node, const ApiRequest& request,
                                     size_t prompt_tokens);

// The answers of /tokenize and /detokenize. 413 beyond what the context holds: their size is bounded, too.
ApiResult<std::vector<int32_t>> EncodeForCounting(const NodeContext& node, const TokenizeRequest& request);
ApiResult<std::string> DecodeIds(const NodeContext& node, const std::vector<int32_t>& ids);

}  // namespace kvplane::server
