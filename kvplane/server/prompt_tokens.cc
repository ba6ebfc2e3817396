#include "kvplane/server/prompt_tokens.h"

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace kvplane::server {
namespace {

using TokenIds = std::vector<int32_t>;

constexpr uint32_t kDefaultCompletionTokens = 16;
// Normalisation may shorten a text before it is cut into tokens (composition of accents, runs of blanks), so
// the bound that spares the encoding of hopeless texts is taken this much wider.
constexpr size_t kNormalisationMargin = 8;

std::string_view FieldName(ApiKind kind) { return kind == ApiKind::kChat ? "messages" : "prompt"; }

ApiError PromptTooLong(const NodeContext& node, ApiKind kind, const std::string& length) {
  return TooLong(FieldName(kind), fmt::format("the prompt has {} tokens, but the context of model '{}' holds "
                                              "{} including at least one generated: shorten the prompt",
                                              length, node.model_name, node.engine.options().max_context));
}

// Whether the context holds it cannot be told from its length alone.
bool MayFit(const NodeContext& node, std::string_view text) {
  return text.size() / node.longest_piece_bytes / kNormalisationMargin <= node.engine.options().max_context;
}

ApiResult<TokenIds> EncodeText(const NodeContext& node, ApiKind kind, std::string_view text, bool add_special,
                               bool parse_special) {
  if (!MayFit(node, text)) {
    const uint32_t limit = node.engine.options().max_context;
    return tl::make_unexpected(PromptTooLong(node, kind, fmt::format("more than {}", limit)));
  }
  auto ids = node.tokenizer.Encode(text, add_special, parse_special);
  if (!ids.ok()) return tl::make_unexpected(BadField(FieldName(kind), ids.status().message()));
  return *std::move(ids);
}

ApiResult<TokenIds> EncodeChat(const NodeContext& node, const ApiRequest& request) {
  if (node.chat_template == nullptr) {
    return tl::make_unexpected(BadField("messages", fmt::format("model '{}' has no chat template: use "
                                                                "/v1/completions",
                                                                node.model_name)));
  }
  const model::Tokenizer& tokenizer = node.tokenizer;
  const auto bos = tokenizer.bos_id();
  const auto eos = tokenizer.eos_ids();
  const std::string_view bos_text = bos ? tokenizer.IdToPiece(*bos) : std::string_view();
  const std::string_view eos_text = eos.empty() ? std::string_view() : tokenizer.IdToPiece(eos.front());
  const auto text =
      node.chat_template->Render(request.messages, bos_text, eos_text, request.add_generation_prompt);
  if (!text.ok()) return tl::make_unexpected(BadField("messages", text.status().message()));
  return EncodeText(node, ApiKind::kChat, *text, /*add_special=*/false, /*parse_special=*/true);
}

ApiResult<TokenIds> EncodePrompt(const NodeContext& node, const ApiRequest& request, const Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    return EncodeText(node, ApiKind::kCompletion, *text, request.add_special_tokens, /*parse_special=*/false);
  }
  const TokenIds& ids = std::get<TokenIds>(prompt);
  const int32_t vocab = node.tokenizer.vocab_size();
  const auto bad = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocab; });
  if (bad != ids.end()) {
    return tl::make_unexpected(
        BadField("prompt", fmt::format("token id {} is not below the vocabulary's {}", *bad, vocab)));
  }
  return ids;
}

}  // namespace

size_t LongestPieceBytes(const model::Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.IdToPiece(id).size());
  }
  return longest;
}

ApiResult<std::vector<TokenIds>> EncodePrompts(const NodeContext& node, const ApiRequest& request) {
  std::vector<TokenIds> prompts;
  const size_t count = request.kind == ApiKind::kChat ? 1 : request.prompts.size();
  for (size_t i = 0; i < count; ++i) {
    ApiResult<TokenIds> ids = request.kind == ApiKind::kChat
                                  ? EncodeChat(node, request)
                                  : EncodePrompt(node, request, request.prompts[i]);
    if (!ids) return tl::make_unexpected(ids.error());
    if (ids->empty())
      return tl::make_unexpected(BadField(FieldName(request.kind), "the prompt has no tokens"));
    if (ids->size() >= node.engine.options().max_context) {
      return tl::make_unexpected(PromptTooLong(node, request.kind, std::to_string(ids->size())));
    }
    prompts.push_back(*std::move(ids));
  }
  return prompts;
}

size_t TextBytes(const ApiRequest& request) {
  size_t bytes = 0;
  for (const model::ChatMessage& message : request.messages) bytes += message.content.size();
  for (const Prompt& prompt : request.prompts) {
    if (const auto* text = std::get_if<std::string>(&prompt)) bytes += text->size();
  }
  return bytes;
}

ApiResult<TokenIds> EncodeForCounting(const NodeContext& node, const TokenizeRequest& request) {
  const uint32_t limit = node.engine.options().max_context;
  const auto too_long = [&](std::string_view length) {
    return tl::make_unexpected(
        TooLong("prompt", fmt::format("the text has {} tokens, but the context of model '{}' holds {}",
                                      length, node.model_name, limit)));
  };
  if (!MayFit(node, request.text)) return too_long(fmt::format("more than {}", limit));
  auto ids = node.tokenizer.Encode(request.text, request.add_special_tokens);
  if (!ids.ok()) return tl::make_unexpected(BadField("prompt", ids.status().message()));
  if (ids->size() > limit) return too_long(std::to_string(ids->size()));
  return *std::move(ids);
}

ApiResult<std::string> DecodeIds(const NodeContext& node, const TokenIds& ids) {
  const uint32_t limit = node.engine.options().max_context;
  if (ids.size() > limit) {
    return tl::make_unexpected(TooLong("tokens", fmt::format("{} ids, but the context of model '{}' holds {}",
                                                             ids.size(), node.model_name, limit)));
  }
  return node.tokenizer.Decode(ids, /*skip_special=*/false);
}

ApiResult<uint32_t> ResolveMaxTokens(const NodeContext& node, const ApiRequest& request,
                                     size_t prompt_tokens) {
  if (request.transfer && request.transfer->do_remote_decode) return 1;  // the decode node makes the rest
  const auto left = static_cast<uint32_t>(node.engine.options().max_context - prompt_tokens);
  if (!request.max_tokens) {
    return request.kind == ApiKind::kChat ? left : std::min(left, kDefaultCompletionTokens);
  }
  if (*request.max_tokens > left) {
    return tl::make_unexpected(TooLong(
        "max_tokens", fmt::format("{} prompt tokens and max_tokens {} exceed the context of {} tokens",
                                  prompt_tokens, *request.max_tokens, node.engine.options().max_context)));
  }
  return *request.max_tokens;
}

}  // namespace kvplane::server
