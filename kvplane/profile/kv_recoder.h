// Recode: takes the KV of one sequence through a strategy, as a disaggregated service would.
//
// The prefix is written as one object (docs/formats/object.md), the object is read back and decoded into
// pages. So what is judged is the bytes that run: tiles of up to 64 tokens per layer and side, checksums and
// all, and the size counts every byte a peer or a disk would see.
//
// Thread safety: concurrent calls are safe with a Workspace each and disjoint target pages.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/profile/kv_treatment.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::profile {

// from, to: [layers], covering `tokens` tokens counted from position 0; they may be the same pages. `profile`
// may be null when the strategy needs none. Returns the bytes of the object. Errors are those of ObjectWriter
// and ObjectReader; on one `to` is undefined.
base::Result<uint64_t> Recode(const tensor::KvGeometry& geometry, const codec::Strategy& strategy,
                              const std::shared_ptr<const codec::ModelProfile>& profile,
                              std::span<const tensor::LayerPages> from, uint32_t tokens,
                              codec::Workspace& workspace, std::span<const tensor::LayerPages> to);

// Recode as a treatment.
class StrategyTreatment final : public KvTreatment {
 public:
  StrategyTreatment(codec::Strategy strategy, std::shared_ptr<const codec::ModelProfile> profile)
      : strategy_(std::move(strategy)), profile_(std::move(profile)) {}

  std::string Name() const override { return strategy_.ToString(); }
  base::Result<uint64_t> Apply(const tensor::KvGeometry& geometry, std::span<const tensor::LayerPages> from,
                               uint32_t tokens, codec::Workspace& workspace,
                               std::span<const tensor::LayerPages> to) const override {
    return Recode(geometry, strategy_, profile_, from, tokens, workspace, to);
  }

 private:
  codec::Strategy strategy_;
  std::shared_ptr<const codec::ModelProfile> profile_;
};

}  // namespace kvplane::profile
