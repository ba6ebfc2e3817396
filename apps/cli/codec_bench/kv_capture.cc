#include "apps/cli/codec_bench/kv_capture.h"

#include <algorithm>
#include <utility>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/rope/rope.h"
#include "kvplane/model/rope_table.h"

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

namespace {

// Copies the wanted rows of the queries, rotated as attention sees them.
class QueryObserver final : public model::LayerObserver {
 public:
  QueryObserver(const model::ModelConfig& config, SampledQueries& queries)
      : config_(config), queries_(queries), rope_(config.rope, config.head_dim) {
    rope_.Reserve(queries.positions.empty() ? 0 : queries.positions.back() + 1);
  }
  void BeginStep(uint32_t first_position) { first_position_ = first_position; }

  base::Status BeforeAttention(uint32_t) override { return base::Status::Ok(); }
  void AfterKvWrite(uint32_t) override {}
  bool WantsProjections() const override { return !queries_.positions.empty(); }
  // Rows of a layer come from several threads, each to memory of its own.
  void OnProjections(uint32_t layer, uint32_t row, std::span<const float> qkv) override {
    const uint32_t position = first_position_ + row;
    const auto at = std::lower_bound(queries_.positions.begin(), queries_.positions.end(), position);
    if (at == queries_.positions.end() || *at != position) return;
    const auto index = static_cast<size_t>(at - queries_.positions.begin());
    float* out = queries_.values.data() + (layer * queries_.positions.size() + index) * config_.query_width();
    std::copy_n(qkv.begin(), config_.query_width(), out);
    const kernel::RopeKernels& kernels = kernel::RopeKernelsFor(kernel::ActiveIsa());
    for (uint32_t head = 0; head < config_.heads; ++head) {
      kernels.rotate(out + size_t{head} * config_.head_dim, rope_.cos(position), rope_.sin(position),
                     config_.head_dim / 2);
    }
  }

 private:
  const model::ModelConfig& config_;
  SampledQueries& queries_;
  model::RopeTable rope_;
  uint32_t first_position_ = 0;
};

}  // namespace

base::Result<CapturedKv> CaptureKv(model::Model& model, std::span<const int32_t> tokens, uint32_t step_tokens,
                                   uint32_t queries) {
  const auto count = static_cast<uint32_t>(tokens.size());
  CapturedKv captured{PagedKv(model.kv_geometry(), count), {}};
  const model::ModelConfig& config = model.config();
  if (queries > 0) {
    captured.queries.heads = config.heads;
    captured.queries.positions = QueryPositions(count, queries);
    captured.queries.windows = config.windows;
    captured.queries.values.resize(size_t{config.layers} * captured.queries.positions.size() *
                                   config.query_width());
  }
  QueryObserver observer(config, captured.queries);
  std::vector<float> logits;
  for (size_t at = 0; at < tokens.size(); at += step_tokens) {
    model::SequenceInput input;
    input.tokens = tokens.subspan(at, std::min<size_t>(step_tokens, tokens.size() - at));
    input.first_position = static_cast<uint32_t>(at);
    input.layers = captured.kv.layers();
    input.no_logits = true;
    observer.BeginStep(input.first_position);
    KVPLANE_RETURN_IF_ERROR(model.Forward({&input, 1}, &observer, logits));
  }
  return captured;
}

}  // namespace kvplane::cli
