// BasisNoise: quantises chosen parts of the KV in chosen bases, in f32: what the fit asks the model about.
//
// The arithmetic of `unrope | centre | pca | ecsq` without its coder: y = F^T (x - mean), every lane rounded
// to a multiple of its step, x = mean + I^T y; parts that are not named stay bit for bit as they are.
//
// Ownership: refers to the fit's data. Thread safety: Apply from many threads; the counters add up in fixed
// point, so that the sum does not depend on the order.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvplane/codec/model_profile.h"
#include "kvplane/model/rope_table.h"
#include "kvplane/profile/kv_treatment.h"

namespace kvplane::profile {

// One side of one layer.
struct NoisePart {
  uint32_t layer = 0;
  tensor::Side side = tensor::Side::kKey;
  const std::vector<uint16_t>* mean = nullptr;  // [kv_heads * head_dim] bf16
  codec::Basis basis = codec::Basis::kLayerAttention;
  const codec::BasisData* data = nullptr;  // of the space: keys are taken unrotated
  std::vector<float> steps;                // [lanes]; 0: the lane is kept as it is
};

class BasisNoise final : public KvTreatment {
 public:
  // `rope`: reserved for every position. Tokens [0, skip_tokens) are left alone.
  BasisNoise(std::string name, std::vector<NoisePart> parts, const model::RopeTable& rope,
             uint32_t skip_tokens);

  std::string Name() const override { return name_; }
  base::Result<uint64_t> Apply(const tensor::KvGeometry& geometry, std::span<const tensor::LayerPages> from,
                               uint32_t tokens, codec::Workspace& workspace,
                               std::span<const tensor::LayerPages> to) const override;

  // Of all Apply so far, over the lanes with a step: mean squared error of a token (summed over the lanes).
  double error_per_token() const;

 private:
  void ApplyPart(const NoisePart& part, const tensor::KvGeometry& geometry, const tensor::LayerPages& from,
                 uint32_t tokens, const tensor::LayerPages& to) const;

  std::string name_;
  std::vector<NoisePart> parts_;
  const model::RopeTable& rope_;
  uint32_t skip_tokens_;
  mutable std::atomic<int64_t> error_{0};  // in kErrorUnit
  mutable std::atomic<int64_t> tokens_{0};
};

}  // namespace kvplane::profile
