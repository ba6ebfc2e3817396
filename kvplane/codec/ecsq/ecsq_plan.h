// EcsqPlan: everything about coding the tiles of one (layer, heads, quality) that does not depend on the
// tile. Making one costs more than coding a tile, so plans are kept (EcsqPlans). spec.md, section 2, is
// normative.
//
// Elements and lanes. An element is a value of a token, counted as head * head_dim + channel of the coded
// tile. A lane is an element that is coded, in coding order. Elements without a lane decode as their mean.
//
// Thread safety: a plan is immutable and shared; EcsqPlans is locked inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/kernel/ecsq/ecsq_measure.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// What a chain says to its quantiser and where the lanes of the profile are.
struct EcsqConfig {
  bool tile_scale = false;    // steps from the tile; no profile but for the means
  bool weighted = false;      // steps of equal damage to the model's outputs
  bool static_means = false;  // the quantiser takes the profile's means away
  bool channel_rms = false;   // lanes are mixtures of a head's channels (hadamard)
  uint32_t layers = 0;        // refinements of `ternary`; 0: ecsq
  int32_t snr = 0;            // dB
  int32_t low = 0;            // dB less in the low band
  KvSpace space = KvSpace::kValue;
  Basis basis = Basis::kChannel;

  static EcsqConfig Of(Chain chain, tensor::Side side);
};

// 2^(logarithm / 64) in binary32, the same everywhere. Requires: |logarithm| <= 126 * 64.
float EcsqExp2(int32_t logarithm);
// Decibels of amplitude in 1/64 octaves, rounded to nearest.
int32_t EcsqOctaves(int32_t decibels);
// log2(step / deviation) that gives 0 dB where all lanes are alike: log2(sqrt(12)).
constexpr int32_t kEcsqStepOfDeviation = 115;

// [slots] binary32 as the measuring kernel takes them.
class SlotFloats {
 public:
  SlotFloats() = default;
  SlotFloats(size_t slots, float value);
  float* data() { return blocks_.data()->values; }
  const float* data() const { return blocks_.data()->values; }
  float operator[](size_t slot) const { return data()[slot]; }

 private:
  struct alignas(64) Block {
    float values[kernel::EcsqRows::kGroup];
  };
  std::vector<Block> blocks_;
};

struct EcsqByteLanes;  // ecsq_bytes.h

struct EcsqPlan {
  kernel::EcsqRows rows;  // of the coded tile; tokens and head_stride are the tile's
  uint32_t elements = 0;
  std::vector<uint32_t> slot_of_element;  // [elements]
  SlotFloats mean;                        // 0 where the quantiser takes none
  SlotFloats inverse_step;                // 1 with tile scales
  SlotFloats prior;                       // squared deviation in levels, as the profile expects it
  std::vector<int32_t> shift_of_head;     // [heads]: log2(step) less than that of 0 dB, in 1/64 octaves

  uint32_t lanes = 0;
  std::vector<uint32_t> element_of_lane;  // [lanes]
  std::vector<uint32_t> slot_of_lane;     // [lanes]
  std::vector<uint32_t> lane_of_element;  // [elements]; kernel::kRansNoLane
  std::vector<uint32_t> dropped;          // elements without a lane
  std::vector<uint16_t> absent;           // [elements], what those decode as; bf16
  bool ordered = false;                   // lanes are not simply the elements
  std::vector<kernel::RansPick> lane_picks;
  std::vector<kernel::RansPick> element_picks;
  kernel::RansOrder order;
  std::vector<kernel::RansScale> scales;            // [groups] with step, 1 / step and mean
  std::vector<uint8_t> foretold;                    // [groups] ladder index; with tile scales there are none
  std::shared_ptr<const EcsqByteLanes> byte_lanes;  // null: levels of these lanes are not coded as bytes

  uint32_t groups() const { return (lanes + kernel::kRansLanes - 1) / kernel::kRansLanes; }
  size_t bytes() const;
};

// Of an element, in 1/64 octaves: the same for every one of the tile unless a profile tells them apart.
struct EcsqLaneLogs {
  int32_t step = 0;
  int32_t ratio = 0;  // deviation / step
};

// Plans by place and quality. Bounded: beyond kMaxBytes all are forgotten and made again as needed.
class EcsqPlans {
 public:
  static constexpr size_t kMaxBytes = size_t{64} << 20;

  // `chain` outlives this. `profile` may be null when the chain needs none.
  EcsqPlans(Chain chain, tensor::Side side, std::shared_ptr<const ModelProfile> profile);

  // kFailedPrecondition: the profile lacks what the chain takes.
  base::Status Check() const;
  // Null when the tile does not fit the profile (a rank beyond the basis).
  std::shared_ptr<const EcsqPlan> Of(const TileContext& context, const TileShape& shape) const;
  const EcsqConfig& config() const { return config_; }

 private:
  struct Key {
    uint32_t layer, layers, first_head, heads, head_dim;
    uint8_t quality;
    auto operator<=>(const Key&) const = default;
  };
  std::shared_ptr<const EcsqPlan> Make(const TileContext& context, const TileShape& shape) const;
  bool TakeProfile(const TileContext& context, const TileShape& shape, EcsqPlan& plan,
                   std::span<EcsqLaneLogs> logs) const;

  Chain chain_;
  std::shared_ptr<const ModelProfile> profile_;
  EcsqConfig config_;
  mutable base::Mutex mutex_;
  mutable std::map<Key, std::shared_ptr<const EcsqPlan>> plans_ KVPLANE_GUARDED_BY(mutex_);
  mutable size_t bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvplane::codec
