#include "kvplane/codec/ecsq/ecsq_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/codec/ecsq/ecsq_bytes.h"
#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/codec/select/bands.h"
#include "kvplane/codec/transform/centre_stage.h"
#include "kvplane/codec/transform/pca_stage.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

// Like lanes come together only inside windows that a pick reaches (kernel::RansPick).
constexpr uint32_t kOrderWindow = 128;
// Ordering pays when it takes this much off the mean squared distance of a lane to its group's mean, in
// (1/64 octave)^2: about 0.02 bits a value.
constexpr int64_t kOrderPays = 120;
constexpr int32_t kLadderStart = -2 * kOctave;  // log2(deviation / step) of rung 0
constexpr int32_t kLadderPitch = kOctave / 4;
// Beyond these the coder is at either end of the ladder anyway, and squares stay finite.
constexpr int32_t kMaxRatio = 16 * kOctave;

using LaneLogs = EcsqLaneLogs;

int32_t QualityOctaves(uint8_t quality) { return quality == 0 ? 0 : (int32_t{quality} - 128) * 4; }

int32_t FloorDiv(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return static_cast<int32_t>(a % b < 0 ? q - 1 : q);
}

// The logarithm of the root mean square of the heads' channels, rounded down to 1/64 octave.
int32_t RmsLog(std::span<const LaneScale> lanes) {
  const int32_t most = std::max_element(lanes.begin(), lanes.end(), [](const auto& a, const auto& b) {
                         return a.deviation < b.deviation;
                       })->deviation;
  double sum = 0;
  for (const LaneScale& lane : lanes) {
    const int32_t below = std::max<int32_t>(lane.deviation - most, -20 * kOctave);
    sum += EcsqExp2(2 * below);
  }
  const double mean = sum / static_cast<double>(lanes.size());
  int32_t log = 0;
  while (static_cast<double>(EcsqExp2(2 * log)) > mean) --log;
  return most + log;
}

// Squared distance of every lane to the mean of its group, summed.
int64_t Scatter(std::span<const uint32_t> lanes, std::span<const LaneLogs> logs) {
  int64_t total = 0;
  for (size_t first = 0; first < lanes.size(); first += kernel::kRansLanes) {
    const auto group = lanes.subspan(first, std::min<size_t>(kernel::kRansLanes, lanes.size() - first));
    int64_t sum = 0;
    for (const uint32_t e : group) sum += logs[e].ratio;
    const int64_t mean = FloorDiv(sum, static_cast<int64_t>(group.size()));
    for (const uint32_t e : group) total += (logs[e].ratio - mean) * (logs[e].ratio - mean);
  }
  return total;
}

// Kept elements with like ones together: falling ratios in even windows, rising ones in odd windows, so that
// a group across a border is of like lanes as well.
std::vector<uint32_t> Sorted(std::span<const uint32_t> kept, std::span<const LaneLogs> logs) {
  std::vector<uint32_t> lanes(kept.begin(), kept.end());
  for (auto first = lanes.begin(); first != lanes.end();) {
    const uint32_t window = *first / kOrderWindow;
    const auto last =
        std::find_if(first, lanes.end(), [window](uint32_t e) { return e / kOrderWindow != window; });
    const bool falling = window % 2 == 0;
    // Equals by element: what std::stable_sort gives, which clang-19 does not compile with libstdc++ 12.
    std::sort(first, last, [&logs, falling](uint32_t a, uint32_t b) {
      if (logs[a].ratio == logs[b].ratio) return a < b;
      return falling ? logs[a].ratio > logs[b].ratio : logs[a].ratio < logs[b].ratio;
    });
    first = last;
  }
  return lanes;
}

// element_of_lane and what follows from it.
void OrderLanes(std::span<const LaneLogs> logs, bool may_drop, EcsqPlan& plan) {
  std::vector<uint32_t> kept;
  for (uint32_t e = 0; e < plan.elements; ++e) {
    if (may_drop && logs[e].ratio < kernel::kEcsqDropBelow) {
      plan.dropped.push_back(e);
    } else {
      kept.push_back(e);
    }
  }
  std::vector<uint32_t> sorted = Sorted(kept, logs);
  const int64_t gain = Scatter(kept, logs) - Scatter(sorted, logs);
  plan.element_of_lane =
      gain >= kOrderPays * static_cast<int64_t>(kept.size()) ? std::move(sorted) : std::move(kept);
  plan.lanes = static_cast<uint32_t>(plan.element_of_lane.size());
  for (const uint32_t e : plan.element_of_lane) plan.slot_of_lane.push_back(plan.slot_of_element[e]);
  plan.lane_of_element.resize(plan.elements);
  KVPLANE_CHECK(kernel::InvertRansOrder(plan.element_of_lane, plan.lane_of_element));
  plan.ordered = plan.lanes != plan.elements ||
                 !std::is_sorted(plan.element_of_lane.begin(), plan.element_of_lane.end());
  if (!plan.ordered) return;
  plan.lane_picks.resize(plan.groups());
  const bool lanes_at_home = kernel::BuildRansPicks(plan.element_of_lane, plan.lane_picks.data());
  plan.element_picks.resize((plan.elements + kernel::kRansLanes - 1) / kernel::kRansLanes);
  const bool elements_at_home = kernel::BuildRansPicks(plan.lane_of_element, plan.element_picks.data());
  plan.order = {plan.element_of_lane.data(), plan.lane_of_element.data(), plan.lane_picks.data(),
                plan.element_picks.data(), lanes_at_home && elements_at_home};
}

// Heads that bring their own steps: all lanes alike.
bool TakeTileScales(std::span<LaneLogs> logs, const EcsqPlan& plan) {
  for (uint32_t e = 0; e < plan.elements; ++e) {
    logs[e] = {0, plan.shift_of_head[e / plan.rows.head_dim] - kEcsqStepOfDeviation};
  }
  return true;
}

// The lanes of a head behind `hadamard`: all with the mean step and the deviation of the mixture.
void MixChannels(std::span<const LaneScale> lanes, std::span<LaneLogs> logs) {
  int64_t steps = 0;
  for (const LaneLogs& log : logs) steps += log.step;
  const int32_t step = FloorDiv(steps, static_cast<int64_t>(logs.size()));
  const int32_t deviation = RmsLog(lanes);
  for (LaneLogs& log : logs) log = {step, deviation - step};
}

// What lanes and elements without one decode with.
void ScaleLanes(std::span<const LaneLogs> logs, EcsqPlan& plan) {
  for (const uint32_t slot : plan.slot_of_element) {
    plan.absent.push_back(tensor::FloatToBf16(plan.mean[slot]));
  }
  plan.scales.resize(plan.groups());
  for (uint32_t lane = 0; lane < plan.lanes; ++lane) {
    const uint32_t e = plan.element_of_lane[lane];
    const uint32_t slot = plan.slot_of_element[e];
    plan.scales[lane / kernel::kRansLanes].Set(lane % kernel::kRansLanes, EcsqExp2(logs[e].step),
                                               plan.inverse_step[slot], plan.mean[slot]);
  }
}

// The rung of every group by the mean ratio of its lanes.
void Foretell(std::span<const LaneLogs> logs, uint32_t layers, EcsqPlan& plan) {
  constexpr int32_t kOctavesOfThree[] = {0, 101, 203, 304};  // log2(3^n), rounded
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    const uint32_t first = g * kernel::kRansLanes;
    const uint32_t last = std::min(first + kernel::kRansLanes, plan.lanes);
    int64_t sum = 0;
    for (uint32_t lane = first; lane < last; ++lane) sum += logs[plan.element_of_lane[lane]].ratio;
    const int32_t ratio = FloorDiv(sum, last - first) - kOctavesOfThree[layers];
    const int32_t at = FloorDiv(ratio - kLadderStart + kLadderPitch / 2, kLadderPitch);
    const auto top = static_cast<int32_t>(kernel::kEcsqLadder) - 1;
    const auto rung = static_cast<uint8_t>(std::clamp(at, 0, top));
    plan.foretold.push_back(layers > 0 ? rung : kernel::kEcsqForetoldRung[rung]);
  }
}

}  // namespace

EcsqConfig EcsqConfig::Of(Chain chain, tensor::Side side) {
  EcsqConfig config;
  if (const StageCall* call = FindCall(chain, kStageTernary); call != nullptr) {
    config.layers = call->params[0];
    config.snr = static_cast<int32_t>(call->params[1]);
    config.weighted = call->params[2] == static_cast<uint32_t>(EcsqWeight::kModel);
  } else {
    call = FindCall(chain, kStageEcsq);
    KVPLANE_CHECK(call != nullptr);
    config.snr = static_cast<int32_t>(call->params[0]);
    config.low = static_cast<int32_t>(call->params[1]);
    config.weighted = call->params[2] == static_cast<uint32_t>(EcsqWeight::kModel);
    config.tile_scale = call->params[3] == static_cast<uint32_t>(EcsqScale::kTile);
  }
  config.static_means = CoderTakesStaticMeans(chain);
  config.channel_rms = FindCall(chain, kStageHadamard) != nullptr;
  if (const StageCall* pca = FindCall(chain, kStagePca); pca != nullptr) config.basis = BasisOf(*pca);
  if (side == tensor::Side::kKey) {
    config.space = FindCall(chain, kStageUnrope) != nullptr ? KvSpace::kKeyUnrotated : KvSpace::kKeyRotated;
  }
  return config;
}

float EcsqExp2(int32_t logarithm) {
  const int32_t octave = FloorDiv(logarithm, kOctave);
  return std::ldexp(kernel::kExp2[logarithm - octave * kOctave], octave);
}

int32_t EcsqOctaves(int32_t decibels) {
  constexpr int64_t kScale = 10000;
  constexpr int64_t kDecibelsPerOctave = 60206;  // 20 log10(2), times kScale
  return static_cast<int32_t>((decibels * kOctave * kScale + kDecibelsPerOctave / 2) / kDecibelsPerOctave);
}

SlotFloats::SlotFloats(size_t slots, float value) : blocks_(slots / kernel::EcsqRows::kGroup) {
  std::fill_n(data(), slots, value);
}

size_t EcsqPlan::bytes() const {
  const size_t per_element = sizeof(uint32_t) * 5 + sizeof(uint16_t) + sizeof(float) * 6 + 4;
  const size_t per_group = sizeof(kernel::RansScale) + 2 * sizeof(kernel::RansPick) + sizeof(EcsqForecast);
  return sizeof(EcsqPlan) + elements * per_element + (elements / kernel::kRansLanes + 1) * per_group;
}

EcsqPlans::EcsqPlans(Chain chain, tensor::Side side, std::shared_ptr<const ModelProfile> profile)
    : chain_(chain), profile_(std::move(profile)), config_(EcsqConfig::Of(chain, side)) {}

base::Status EcsqPlans::Check() const {
  KVPLANE_RETURN_IF_ERROR(CheckBands(chain_, profile_.get()));
  if (config_.tile_scale && !config_.static_means) return base::Status::Ok();
  KVPLANE_CHECK(profile_ != nullptr);  // the chain needs one
  for (uint32_t layer = 0; layer < profile_->data().geometry.layers; ++layer) {
    if (profile_->basis(layer, config_.space, config_.basis) != nullptr) continue;
    return base::FailedPrecondition("L4: layer {} of the profile has no basis {} of space {}", layer,
                                    static_cast<int>(config_.basis), static_cast<int>(config_.space));
  }
  return base::Status::Ok();
}

std::shared_ptr<const EcsqPlan> EcsqPlans::Of(const TileContext& context, const TileShape& shape) const {
  const Key key{context.layer, context.layers, context.first_head,
                shape.heads,   shape.head_dim, context.quality};
  {
    base::MutexLock lock(mutex_);
    if (const auto at = plans_.find(key); at != plans_.end()) return at->second;
  }
  std::shared_ptr<const EcsqPlan> plan = Make(context, shape);
  if (plan == nullptr) return plan;
  base::MutexLock lock(mutex_);
  if (bytes_ + plan->bytes() > kMaxBytes) {
    plans_.clear();
    bytes_ = 0;
  }
  const auto [at, fresh] = plans_.emplace(key, plan);
  if (fresh) bytes_ += plan->bytes();
  return at->second;
}

std::shared_ptr<const EcsqPlan> EcsqPlans::Make(const TileContext& context, const TileShape& shape) const {
  auto plan = std::make_shared<EcsqPlan>();
  plan->rows = {.tokens = 0, .heads = shape.heads, .head_dim = shape.head_dim, .head_stride = 0};
  plan->elements = shape.heads * shape.head_dim;
  for (uint32_t h = 0; h < shape.heads; ++h) {
    const int32_t low = InLowBand(chain_, profile_.get(), context, h) ? EcsqOctaves(config_.low) : 0;
    plan->shift_of_head.push_back(EcsqOctaves(config_.snr) - low + QualityOctaves(context.quality));
    for (uint32_t c = 0; c < shape.head_dim; ++c) {
      plan->slot_of_element.push_back(static_cast<uint32_t>(plan->rows.slot(h, c)));
    }
  }
  const size_t slots = plan->rows.slots();
  plan->mean = SlotFloats(slots, 0.0f);
  plan->inverse_step = SlotFloats(slots, 1.0f);
  plan->prior = SlotFloats(slots, 0.0f);
  std::vector<LaneLogs> logs(plan->elements);
  const bool fits = !config_.tile_scale || config_.static_means ? TakeProfile(context, shape, *plan, logs)
                                                                : TakeTileScales(logs, *plan);
  if (!fits) return nullptr;
  for (uint32_t e = 0; e < plan->elements; ++e) {
    const uint32_t slot = plan->slot_of_element[e];
    plan->inverse_step.data()[slot] = EcsqExp2(-logs[e].step);
    plan->prior.data()[slot] = EcsqExp2(2 * std::clamp(logs[e].ratio, -kMaxRatio, kMaxRatio));
  }
  OrderLanes(logs, !config_.tile_scale, *plan);
  ScaleLanes(logs, *plan);
  if (!config_.tile_scale) Foretell(logs, config_.layers, *plan);
  if (config_.layers == 0) {
    std::vector<int32_t> ratios;
    if (!config_.tile_scale) {
      for (const uint32_t e : plan->element_of_lane) ratios.push_back(logs[e].ratio);
    }
    plan->byte_lanes = MakeByteLanes(*plan, ratios);
  }
  return plan;
}

// Means and logarithms as the profile has them. False: the tile does not fit it.
bool EcsqPlans::TakeProfile(const TileContext& context, const TileShape& shape, EcsqPlan& plan,
                            std::span<EcsqLaneLogs> logs) const {
  const SpaceData* space = profile_->space(context.layer, config_.space);
  const BasisData* basis = profile_->basis(context.layer, config_.space, config_.basis);
  if (space == nullptr || basis == nullptr) return false;
  const bool whole_layer = config_.basis == Basis::kLayer || config_.basis == Basis::kLayerAttention;
  const uint32_t rank = config_.basis == Basis::kChannel ? profile_->data().geometry.head_dim : basis->rank;
  if (shape.head_dim > rank || (whole_layer && shape.heads != 1)) return false;
  for (uint32_t e = 0; e < plan.elements; ++e) {
    const uint32_t head = e / shape.head_dim;
    const size_t lane = whole_layer ? e : size_t{context.first_head + head} * rank + e % shape.head_dim;
    if (config_.static_means) {
      plan.mean.data()[plan.slot_of_element[e]] = tensor::Bf16ToFloat(space->mean[lane]);
    }
    const LaneScale& scale = basis->lanes[lane];
    logs[e].step = (config_.weighted ? scale.weighted_step : scale.uniform_step) - plan.shift_of_head[head];
    logs[e].ratio = scale.deviation - logs[e].step;
  }
  if (config_.tile_scale) return TakeTileScales(logs, plan);
  for (uint32_t h = 0; config_.channel_rms && h < shape.heads; ++h) {
    const size_t first = size_t{context.first_head + h} * rank;
    MixChannels({basis->lanes.data() + first, shape.head_dim},
                logs.subspan(size_t{h} * shape.head_dim, shape.head_dim));
  }
  return true;
}

}  // namespace kvplane::codec
