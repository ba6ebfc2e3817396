#include "apps/cli/codec_bench/kv_capture.h"

#include <algorithm>
#include <utility>

namespace kvplane::cli {

std::vector<uint32_t> QueryPositions(uint32_t tokens, uint32_t queries) {
  const uint32_t first = tokens / 2;
  const uint32_t count = std::min(queries, tokens - first);
  std::vector<uint32_t> positions;
  for (uint32_t i = 0; i < count; ++i) {
    positions.push_back(first + static_cast<uint32_t>((uint64_t{i} + 1) * (tokens - first) / count) - 1);
  }
  return positions;
}

base::Result<CapturedKv> CaptureKv(model::Model& model, std::span<const int32_t> tokens, uint32_t step_tokens,
                                   uint32_t queries) {
  CapturedKv captured{PagedKv(model.kv_geometry(), static_cast<uint32_t>(tokens.size())), {}};
  (void)queries;
  std::vector<float> logits;
  for (size_t at = 0; at < tokens.size(); at += step_tokens) {
    model::SequenceInput input;
    input.tokens = tokens.subspan(at, std::min<size_t>(step_tokens, tokens.size() - at));
    input.first_position = static_cast<uint32_t>(at);
    input.layers = captured.kv.layers();
    input.no_logits = true;
    KVPLANE_RETURN_IF_ERROR(model.Forward({&input, 1}, nullptr, logits));
  }
  return captured;
}

}  // namespace kvplane::cli
