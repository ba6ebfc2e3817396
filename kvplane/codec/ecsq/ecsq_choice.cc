#include "kvplane/codec/ecsq/ecsq_choice.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using kernel::kEcsqCost;
using kernel::kEcsqLadder;

// The profile's deviations count as much as this many tokens.
constexpr float kPriorTokens = 4.0f;
constexpr uint32_t kPowerOfThree[] = {1, 3, 9, 27};
// Head scales are 1/8 octaves around 1.
constexpr int32_t kScaleCentre = 128;
constexpr int32_t kScalePitch = kOctave / 8;
// A stream's states cost about 48 bytes; more streams are faster until they cost more than 1 % of the tile.
constexpr uint64_t kStatesBits = 48 * 8;
constexpr uint64_t kStatesShare = 100;
constexpr uint64_t kFewValues = 16384;
constexpr uint64_t kManyValues = 131072;

// One encoder's view of a tile.
struct Tile {
  const EcsqPlan& plan;
  const EcsqConfig& config;
  const tensor::ConstTileView& in;
  const uint16_t* const* rows;
  float* largest;       // [slots], in levels of the finest step
  float* energy;        // [slots], sums of squared levels
  uint8_t* deviation;   // [slots], rows of kEcsqCost
  float* inverse_head;  // [heads], with tile scales: 1 / step

  uint32_t unit() const { return kPowerOfThree[config.layers]; }
  // The largest level that rung k codes or clips to, in levels of the finest step.
  float Reach(uint32_t k) const {
    const auto highest = static_cast<float>(kernel::RansLadderRung(k).max_level());
    return highest * static_cast<float>(unit()) + static_cast<float>(unit() / 2) + kernel::kEcsqEscapeExcess;
  }
};

float MinRmsSquared(int32_t code) { return EcsqExp2(kScalePitch * (2 * (code - kScaleCentre) - 1)); }

// The scale byte of a head of that mean square: the nearest 1/8 octave of its root. False: out of range.
bool ScaleCode(double mean_square, uint8_t& code) {
  code = 0;
  if (mean_square == 0) return true;
  if (!(mean_square >= static_cast<double>(MinRmsSquared(1))) || !std::isfinite(mean_square)) return false;
  int exponent = 0;
  std::frexp(mean_square, &exponent);  // in [2^(exponent - 1), 2^exponent)
  int32_t found = std::max(1, kScaleCentre + 4 * (exponent - 1));
  while (found <= 255 && mean_square >= static_cast<double>(MinRmsSquared(found + 1))) ++found;
  if (found > 255) return false;
  code = static_cast<uint8_t>(found);
  return true;
}

// Scale bytes of the heads; brings the measures from values to levels.
bool ScaleHeads(Tile& tile, std::span<uint8_t> codes) {
  const kernel::EcsqRows& shape = tile.plan.rows;
  for (uint32_t h = 0; h < shape.heads; ++h) {
    double sum = 0;
    for (uint32_t c = 0; c < shape.head_dim; ++c) sum += tile.energy[shape.slot(h, c)];
    const double values = static_cast<double>(tile.in.tokens) * shape.head_dim;
    if (!ScaleCode(sum / values, codes[h])) return false;
    const float inverse = EcsqExp2(-TileStepLog(tile.plan, h, codes[h]));
    tile.inverse_head[h] = inverse;
    const size_t first = shape.slot(h, 0);
    for (size_t slot = first; slot < first + shape.head_groups() * kernel::EcsqRows::kGroup; ++slot) {
      tile.largest[slot] *= inverse;
      tile.energy[slot] *= inverse * inverse;
    }
  }
  return true;
}

// The row of kEcsqCost of every slot: 4 log2(deviation / step) + 8, with the logarithm read off the binary32
// pattern of the variance (linear between powers of two, which is close enough). The largest value is left
// out: it is what an escape would take.
void RateDeviations(const Tile& tile) {
  const float tokens = static_cast<float>(tile.in.tokens) - 1 + kPriorTokens;
  const auto unit = static_cast<float>(tile.unit());
  const float per_token = 1.0f / (tokens * unit * unit);
  const float* prior = tile.plan.prior.data();
  const size_t slots = tile.plan.rows.slots();
  for (size_t slot = 0; slot < slots; ++slot) {
    const float rest = tile.energy[slot] - tile.largest[slot] * tile.largest[slot];
    const float variance = (rest + kPriorTokens * prior[slot]) * per_token;
    const int32_t half_octaves = (std::bit_cast<int32_t>(variance) + (1 << 21)) >> 22;
    const int32_t row = half_octaves - 2 * 127 + 8;
    tile.deviation[slot] =
        static_cast<uint8_t>(std::clamp<int32_t>(row, 0, static_cast<int32_t>(kernel::kEcsqCostRows) - 1));
  }
}

struct GroupChoice {
  uint32_t rung = 0;
  uint64_t cost = 0;      // 1/256 bits
  uint64_t foretold = 0;  // of the foretold rung
};

// Bits that values beyond a rung's reach take, of lanes whose largest level is beyond that of `least`.
class EscapeCosts {
 public:
  EscapeCosts(const Tile& tile, std::span<const uint32_t> lanes) : tile_(tile) {
    for (const uint32_t element : lanes) {
      const uint32_t slot = tile.plan.slot_of_element[element];
      largest_ = std::max(largest_, tile.largest[slot]);
      slots_[count_++] = slot;
    }
  }
  uint64_t Of(uint32_t k) const {
    const float reach = tile_.Reach(k);
    if (largest_ <= reach) return 0;
    uint64_t escapes = 0;
    for (uint32_t i = 0; i < count_; ++i) {
      if (tile_.largest[slots_[i]] <= reach) continue;
      const float bound = tile_.energy[slots_[i]] / (reach * reach);
      const auto tokens = static_cast<float>(tile_.in.tokens);
      escapes += static_cast<uint64_t>(bound < tokens ? std::max(bound, 1.0f) : tokens);
    }
    return escapes * kernel::kEcsqEscapeBits * kernel::kEcsqCostUnits;
  }

 private:
  const Tile& tile_;
  uint32_t slots_[kernel::kRansLanes] = {};
  uint32_t count_ = 0;
  float largest_ = 0;
};

GroupChoice ChooseRung(const Tile& tile, uint32_t g) {
  const EcsqPlan& plan = tile.plan;
  const uint32_t first = g * kernel::kRansLanes;
  const std::span<const uint32_t> lanes(plan.element_of_lane.data() + first,
                                        std::min(kernel::kRansLanes, plan.lanes - first));
  uint8_t rows[kernel::kRansLanes];
  uint32_t least = kernel::kEcsqCostRows;
  uint32_t most = 0;
  for (size_t i = 0; i < lanes.size(); ++i) {
    rows[i] = tile.deviation[plan.slot_of_element[lanes[i]]];
    least = std::min<uint32_t>(least, rows[i]);
    most = std::max<uint32_t>(most, rows[i]);
  }
  const uint32_t tokens = tile.in.tokens;
  const auto cost_of = [&](uint32_t k) {
    uint64_t cost = 0;
    for (size_t i = 0; i < lanes.size(); ++i) cost += kEcsqCost[rows[i]][k];
    return cost * tokens;
  };
  const EscapeCosts escapes(tile, lanes);
  GroupChoice choice;
  choice.cost = ~uint64_t{0};
  // The best rung of a mixture lies between those of its parts; one of foretold lanes lies a little below.
  const uint32_t begin = least > 3 ? std::min(least - 3, kEcsqLadder - 1) : 0;
  const uint32_t end = std::min(most + 1, kEcsqLadder - 1);
  for (uint32_t k = begin; k <= end || (k < kEcsqLadder && escapes.Of(k - 1) > 0); ++k) {
    const uint64_t cost = cost_of(k) + escapes.Of(k);
    if (cost >= choice.cost) continue;
    choice.cost = cost;
    choice.rung = k;
  }
  if (!plan.foretold.empty()) {
    choice.foretold = cost_of(plan.foretold[g]) + escapes.Of(plan.foretold[g]);
  }
  return choice;
}

// All rungs; the foretold ones where writing others down costs more than they save. Returns bits, about.
uint64_t ChooseRungs(const Tile& tile, std::span<uint8_t> ladder, RungForm& form) {
  uint64_t chosen = 0;
  uint64_t foretold = 0;
  for (uint32_t g = 0; g < ladder.size(); ++g) {
    const GroupChoice choice = ChooseRung(tile, g);
    ladder[g] = static_cast<uint8_t>(choice.rung);
    chosen += choice.cost;
    foretold += choice.foretold;
  }
  form = RungFormOf(tile.plan, ladder);
  const size_t bytes = form == RungForm::kNibbles ? (ladder.size() + 1) / 2 : ladder.size();
  if (!tile.plan.foretold.empty() && form != RungForm::kForetold &&
      foretold <= chosen + bytes * 8 * kernel::kEcsqCostUnits) {
    std::copy(tile.plan.foretold.begin(), tile.plan.foretold.end(), ladder.begin());
    form = RungForm::kForetold;
  }
  return chosen / kernel::kEcsqCostUnits;
}

// Values beyond the reach of their rung. False: more than the format holds.
bool FindEscapes(const Tile& tile, std::span<const uint8_t> ladder, std::span<EcsqEscape>& escapes) {
  const EcsqPlan& plan = tile.plan;
  const kernel::EcsqRows& shape = plan.rows;
  size_t count = 0;
  const auto scan = [&](uint32_t element, float reach) {
    const uint32_t slot = plan.slot_of_element[element];
    if (tile.largest[slot] <= reach) return true;
    const uint32_t head = element / shape.head_dim;
    const float inverse = tile.config.tile_scale ? tile.inverse_head[head] : plan.inverse_step.data()[slot];
    const size_t at = head * tile.in.head_stride + element % shape.head_dim;
    for (uint32_t t = 0; t < tile.in.tokens; ++t) {
      const uint16_t bits = tile.rows[t][at];
      const float level = (tensor::Bf16ToFloat(bits) - plan.mean.data()[slot]) * inverse;
      if (!(std::fabs(level) > reach)) continue;
      if (count == escapes.size()) return false;
      escapes[count++] = {t * plan.elements + element, bits};
    }
    return true;
  };
  for (uint32_t lane = 0; lane < plan.lanes; ++lane) {
    const float reach = tile.Reach(ladder[lane / kernel::kRansLanes]);
    if (!scan(plan.element_of_lane[lane], reach)) return false;
  }
  for (const uint32_t element : plan.dropped) {
    if (!scan(element, kernel::kEcsqEscapeExcess)) return false;
  }
  escapes = escapes.first(count);
  std::sort(escapes.begin(), escapes.end(),
            [](const EcsqEscape& a, const EcsqEscape& b) { return a.position < b.position; });
  return true;
}

// log2 of the streams: as many as the size pays for and the tokens divide into.
uint32_t StreamsLog(const EcsqPlan& plan, uint32_t tokens, uint64_t bits) {
  const uint64_t values = uint64_t{tokens} * plan.lanes;
  uint32_t log = values < kFewValues ? 0 : values < kManyValues ? 2 : 3;
  while (log > 0 && (tokens % (1u << log) != 0 || (kStatesBits << log) * kStatesShare > bits)) --log;
  return log;
}

template <typename T>
T* Take(std::byte*& at, size_t count) {
  auto* const taken = reinterpret_cast<T*>(at);
  constexpr size_t kAlignment = 64;
  at += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  return taken;
}

}  // namespace

int32_t TileStepLog(const EcsqPlan& plan, uint32_t head, uint8_t code) {
  if (code == 0) return 0;
  return kScalePitch * (int32_t{code} - kScaleCentre) + kEcsqStepOfDeviation - plan.shift_of_head[head];
}

bool ChooseEcsq(const EcsqPlan& plan, const EcsqConfig& config, const tensor::ConstTileView& in,
                const uint16_t* const* rows, Workspace& workspace, EcsqChoice& choice) {
  const size_t slots = plan.rows.slots();
  const size_t max_escapes = in.values() / kEcsqValuesPerEscape;
  const size_t bytes = slots * (2 * sizeof(float) + 1) + plan.rows.heads * (sizeof(float) + 1) +
                       plan.groups() + max_escapes * sizeof(EcsqEscape) + 8 * 64;
  std::byte* at = workspace.Scratch(bytes, Workspace::Use::kQuantizer).data();
  Tile tile{plan, config, in, rows, nullptr, nullptr, nullptr, nullptr};
  tile.largest = Take<float>(at, slots);
  tile.energy = Take<float>(at, slots);
  tile.deviation = Take<uint8_t>(at, slots);
  tile.inverse_head = Take<float>(at, plan.rows.heads);
  choice.head_scales = {Take<uint8_t>(at, plan.rows.heads), config.tile_scale ? plan.rows.heads : 0};
  choice.ladder = {Take<uint8_t>(at, plan.groups()), plan.groups()};
  choice.escapes = {Take<EcsqEscape>(at, max_escapes), max_escapes};

  kernel::EcsqRows shape = plan.rows;
  shape.tokens = in.tokens;
  shape.head_stride = in.head_stride;
  if (!kernel::EcsqMeasure()(shape, rows, {plan.mean.data(), plan.inverse_step.data()},
                             {tile.largest, tile.energy})) {
    return false;
  }
  if (config.tile_scale && !ScaleHeads(tile, choice.head_scales)) return false;
  RateDeviations(tile);
  const uint64_t bits = ChooseRungs(tile, choice.ladder, choice.head.form);
  if (!FindEscapes(tile, choice.ladder, choice.escapes)) return false;
  choice.head.has_escapes = !choice.escapes.empty();
  choice.head.streams_log = StreamsLog(plan, in.tokens, bits);
  return true;
}

}  // namespace kvplane::codec
