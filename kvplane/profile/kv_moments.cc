#include "kvplane/profile/kv_moments.h"

#include <algorithm>

#include "kvplane/base/rng.h"
#include "kvplane/model/rope_table.h"
#include "kvplane/profile/rotation.h"
#include "kvplane/profile/sequence_kv.h"

namespace kvplane::profile {
namespace {

constexpr uint32_t kBlockTokens = 16;

// Rows of one step, in the order of its sequences.
struct StepRow {
  uint32_t position = 0;
  bool skipped = false;
};

// Keeps the projections of the layer in progress and sums them when they are complete: sums are made by one
// thread in the order of the rows, so that they do not depend on who computed which row.
class MomentObserver final : public model::LayerObserver {
 public:
  MomentObserver(const model::ModelConfig& config, const CaptureOptions& options, KvMoments& moments)
      : config_(config),
        skip_tokens_(options.skip_tokens),
        moments_(moments),
        rng_(options.seed),
        rope_(config.rope, config.head_dim),
        width_(config.query_width() + 2 * config.kv_width()) {}

  void BeginStep(std::vector<StepRow> rows) {
    rows_ = std::move(rows);
    qkv_.resize(rows_.size() * width_);
    uint32_t positions = 0;
    for (const StepRow& row : rows_) positions = std::max(positions, row.position + 1);
    rope_.Reserve(positions);
  }

  base::Status BeforeAttention(uint32_t) override { return base::Status::Ok(); }
  bool WantsProjections() const override { return true; }
  void OnProjections(uint32_t, uint32_t row, std::span<const float> qkv) override {
    std::copy(qkv.begin(), qkv.end(), qkv_.begin() + static_cast<ptrdiff_t>(row * width_));
  }
  void AfterKvWrite(uint32_t layer) override {
    LayerMoments& moments = moments_.layers[layer];
    AddKeys(moments);
    AddValues(moments);
    for (uint32_t head = 0; head < config_.kv_heads; ++head) AddQueries(layer, head, moments);
  }

 private:
  const float* Keys(size_t row) const { return qkv_.data() + row * width_ + config_.query_width(); }

  void AddKeys(LayerMoments& moments) {
    const size_t kv_width = config_.kv_width();
    unrotated_.clear();
    for (size_t row = 0; row < rows_.size(); ++row) {
      if (!rows_[row].skipped) unrotated_.insert(unrotated_.end(), Keys(row), Keys(row) + kv_width);
    }
    moments.key_unrotated.Add(unrotated_);
    size_t at = 0;
    for (const StepRow& row : rows_) {
      if (row.skipped) continue;
      for (uint32_t head = 0; head < config_.kv_heads; ++head, at += config_.head_dim) {
        Rotate({unrotated_.data() + at, config_.head_dim}, rope_, row.position);
      }
    }
    moments.key_rotated.Add(unrotated_);
  }

  void AddValues(LayerMoments& moments) {
    const size_t kv_width = config_.kv_width();
    values_.clear();
    for (size_t row = 0; row < rows_.size(); ++row) {
      const float* values = Keys(row) + kv_width;
      if (!rows_[row].skipped) values_.insert(values_.end(), values, values + kv_width);
    }
    moments.value.Add(values_);
  }

  void AddQueries(uint32_t layer, uint32_t kv_head, LayerMoments& moments) {
    const uint32_t group = config_.heads / config_.kv_heads;
    const size_t dim = config_.head_dim;
    const uint32_t window = config_.windows[layer];
    rotated_queries_.clear();
    relative_queries_.clear();
    for (size_t row = 0; row < rows_.size(); ++row) {
      const uint32_t position = rows_[row].position;
      const uint32_t seen = window == 0 ? position + 1 : std::min(position + 1, window);
      for (uint32_t i = 0; i < group; ++i) {
        const float* query = qkv_.data() + row * width_ + (size_t{kv_head} * group + i) * dim;
        // Reads no key that counts: its own and the sinks'.
        if (position <= skip_tokens_) continue;
        rotated_queries_.insert(rotated_queries_.end(), query, query + dim);
        Rotate({rotated_queries_.end().base() - dim, dim}, rope_, position);
        relative_queries_.insert(relative_queries_.end(), query, query + dim);
        Rotate({relative_queries_.end().base() - dim, dim}, rope_, static_cast<uint32_t>(rng_.Below(seen)));
      }
    }
    moments.query_rotated[kv_head].Add(rotated_queries_);
    moments.query_at_unrotated[kv_head].Add(relative_queries_);
  }

  const model::ModelConfig& config_;
  const uint32_t skip_tokens_;
  KvMoments& moments_;
  base::Rng rng_;
  model::RopeTable rope_;
  const size_t width_;
  std::vector<StepRow> rows_;
  std::vector<float> qkv_;  // [rows, width_]
  std::vector<float> unrotated_, values_, rotated_queries_, relative_queries_;
};

base::Status CheckPrompts(const model::Model& model, std::span<const std::vector<int32_t>> prompts,
                          const CaptureOptions& options) {
  if (prompts.empty()) return base::InvalidArgument("there are no prompts to fit on");
  for (const std::vector<int32_t>& prompt : prompts) {
    if (prompt.size() <= options.skip_tokens || prompt.size() > options.step_tokens ||
        prompt.size() > model.config().max_context) {
      return base::InvalidArgument("a prompt of {} tokens: {} to {} can be captured", prompt.size(),
                                   options.skip_tokens + 1,
                                   std::min(options.step_tokens, model.config().max_context));
    }
  }
  return base::Status::Ok();
}

base::Status CaptureStep(model::Model& model, std::span<const std::vector<int32_t>> prompts,
                         const CaptureOptions& options, MomentObserver& observer) {
  std::vector<SequenceKv> kv;
  std::vector<StepRow> rows;
  for (const std::vector<int32_t>& prompt : prompts) {
    kv.emplace_back(model.kv_geometry(), kBlockTokens, static_cast<uint32_t>(prompt.size()));
    for (uint32_t t = 0; t < prompt.size(); ++t) rows.push_back({t, t < options.skip_tokens});
  }
  std::vector<model::SequenceInput> inputs;
  for (size_t i = 0; i < prompts.size(); ++i) {
    inputs.push_back({.tokens = prompts[i], .layers = kv[i].layers(), .no_logits = true});
  }
  observer.BeginStep(std::move(rows));
  std::vector<float> no_logits;
  return model.Forward(inputs, &observer, no_logits);
}

}  // namespace

LayerMoments::LayerMoments(const tensor::KvGeometry& geometry)
    : key_rotated(geometry.values_per_token_side()),
      key_unrotated(geometry.values_per_token_side()),
      value(geometry.values_per_token_side()),
      query_rotated(geometry.kv_heads, Covariance(geometry.head_dim)),
      query_at_unrotated(geometry.kv_heads, Covariance(geometry.head_dim)) {}

base::Result<KvMoments> CaptureMoments(model::Model& model, std::span<const std::vector<int32_t>> prompts,
                                       const CaptureOptions& options) {
  KVPLANE_RETURN_IF_ERROR(CheckPrompts(model, prompts, options));
  KvMoments moments;
  moments.geometry = model.kv_geometry();
  moments.layers.resize(moments.geometry.layers, LayerMoments(moments.geometry));
  MomentObserver observer(model.config(), options, moments);
  for (std::span<const std::vector<int32_t>> rest = prompts; !rest.empty();) {
    size_t count = 0;
    size_t rows = 0;
    while (count < rest.size() && rows + rest[count].size() <= options.step_tokens)
      rows += rest[count++].size();
    KVPLANE_RETURN_IF_ERROR(CaptureStep(model, rest.first(count), options, observer));
    rest = rest.subspan(count);
  }
  moments.tokens = moments.layers.front().value.count();
  return moments;
}

}  // namespace kvplane::profile
