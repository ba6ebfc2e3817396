#include "kvplane/codec/ecsq/ecsq_choice.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using kernel::kEcsqLadder;

// The profile's deviations count as much as this many tokens.
constexpr float kPriorTokens = 4.0f;
// Choosing rungs takes a quarter of the tokens of a full tile: the statistics of 32 lanes stand on enough of
// them, and whatever they miss comes back as an escape. In runs, which memory gives faster than lone rows.
constexpr uint32_t kSampleStride = 4;
constexpr uint32_t kSampleRun = 4;
constexpr uint32_t kLeastSampled = 12;
constexpr uint32_t kPowerOfThree[] = {1, 3, 9, 27};
// Head scales are 1/8 octaves around 1.
constexpr int32_t kScaleCentre = 128;
constexpr int32_t kScalePitch = kOctave / 8;
// Escapes that take less than this, in 1/256 bits a value, are not worth looking for a wider rung.
constexpr uint64_t kWorthWidening = 8;
// A stream's states cost about 48 bytes; more streams are faster until they cost more than 1 % of the tile.
constexpr uint64_t kStatesBits = 48 * 8;
constexpr uint64_t kStatesShare = 100;
constexpr uint64_t kFewValues = 16384;
constexpr uint64_t kManyValues = 131072;

// By layers and rung.
struct ReachTable {
  float of[kTernaryMaxLayers + 1][kEcsqLadder] = {};
  constexpr ReachTable() {
    for (uint32_t k = 0; k < kEcsqLadder; ++k) {
      const int32_t highest = kernel::RansLadderRung(k).max_level();
      for (uint32_t layers = 0; layers <= kTernaryMaxLayers; ++layers) {
        const auto unit = static_cast<int32_t>(kPowerOfThree[layers]);
        of[layers][k] = static_cast<float>(highest * unit + unit / 2) + kernel::kEcsqEscapeExcess;
      }
    }
  }
};
constexpr ReachTable kReach;

// One encoder's view of a tile.
struct Tile {
  const EcsqPlan& plan;
  const EcsqConfig& config;
  const tensor::ConstTileView& in;
  const uint16_t* const* rows;
  uint32_t sampled;     // tokens that were measured
  float* largest;       // [slots], in levels of the finest step
  float* energy;        // [slots], sums of squared levels
  uint8_t* deviation;   // [slots], rows of the cost tables
  float* inverse_head;  // [heads], with tile scales: 1 / step

  uint32_t unit() const { return kPowerOfThree[config.layers]; }
  // The largest level, of the finest step, that rung k codes or clips to.
  float Reach(uint32_t k) const { return kReach.of[config.layers][k]; }
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
    const double values = static_cast<double>(tile.sampled) * shape.head_dim;
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

// The row of the cost tables of every slot: 4 log2(deviation / step) + 8, with the logarithm read off the
// binary32 pattern of the variance (linear between powers of two, which is close enough). The largest value
// is left out: it is what an escape would take.
void RateDeviations(const Tile& tile) {
  const float tokens = static_cast<float>(tile.sampled) - 1 + kPriorTokens;
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

// The costs of rungs k - 1, k and k + 1 in one word each, so that one addition a lane tries all three. 32
// lanes of 16 bits fit into the 21 bits of each.
constexpr uint32_t kTripleShift = 21;
constexpr uint64_t kTripleMask = (uint64_t{1} << kTripleShift) - 1;
struct CostTriples {
  uint64_t of[kEcsqLadder][kernel::kEcsqCostRows] = {};
  explicit constexpr CostTriples(const uint16_t (&costs)[kernel::kEcsqCostRows][kEcsqLadder]) {
    constexpr uint64_t kNever = 65535;
    for (uint32_t j = 0; j < kernel::kEcsqCostRows; ++j) {
      for (uint32_t k = 0; k < kEcsqLadder; ++k) {
        const uint64_t below = k > 0 ? costs[j][k - 1] : kNever;
        const uint64_t above = k + 1 < kEcsqLadder ? costs[j][k + 1] : kNever;
        of[k][j] = below | uint64_t{costs[j][k]} << kTripleShift | above << (2 * kTripleShift);
      }
    }
  }
};
constexpr CostTriples kEcsqTriples(kernel::kEcsqCost);
constexpr CostTriples kTernaryTriples(kernel::kTernaryCost);

// What the rungs cost one group, in 1/256 bits.
class GroupCosts {
 public:
  GroupCosts(const Tile& tile, uint32_t g)
      : tile_(tile), costs_(tile.config.layers > 0 ? kTernaryTriples : kEcsqTriples) {
    const uint32_t first = g * kernel::kRansLanes;
    count_ = std::min(kernel::kRansLanes, tile.plan.lanes - first);
    slots_ = tile.plan.slot_of_lane.data() + first;
    for (uint32_t i = 0; i < count_; ++i) {
      rows_[i] = tile.deviation[slots_[i]];
      most_ = std::max(most_, tile.largest[slots_[i]]);
    }
  }

  // The cheapest rung and its cost, from `start` downhill: without escapes costs have one valley. And the
  // cost of `start`.
  uint32_t Least(uint32_t start, uint64_t& cost, uint64_t& start_cost) const {
    uint32_t k = start;
    for (uint64_t triple = Triple(k);; triple = Triple(k)) {
      const uint64_t below = triple & kTripleMask;
      const uint64_t here = triple >> kTripleShift & kTripleMask;
      const uint64_t above = triple >> (2 * kTripleShift);
      cost = here * tile_.in.tokens;
      if (k == start) start_cost = cost + Escapes(k);
      if (below < here && k > 0 && below <= above) {
        --k;
      } else if (above < here && k + 1 < kEcsqLadder) {
        ++k;
      } else {
        break;
      }
    }
    return WithEscapes(k, cost);
  }

 private:
  uint64_t Triple(uint32_t k) const {
    uint64_t triple = 0;
    const uint64_t* of_row = costs_.of[k];
    for (uint32_t i = 0; i < count_; ++i) triple += of_row[rows_[i]];
    return triple;
  }

  // Where many values lie beyond the reach of rung k, a wider one may be cheaper: the next one costs up to a
  // quarter of a bit more a value.
  uint32_t WithEscapes(uint32_t k, uint64_t& cost) const {
    const uint64_t escapes = Escapes(k);
    cost += escapes;
    if (escapes <= uint64_t{count_} * tile_.in.tokens * kWorthWidening) return k;
    uint32_t best = k;
    for (++k; k < kEcsqLadder; ++k) {
      const uint64_t plain = (Triple(k) >> kTripleShift & kTripleMask) * tile_.in.tokens;
      const uint64_t beyond = Escapes(k);
      if (plain + beyond < cost) {
        cost = plain + beyond;
        best = k;
      }
      if (beyond == 0) break;
    }
    return best;
  }

  // Of values beyond the rung's reach: the largest of a lane, others as far as its energy allows.
  uint64_t Escapes(uint32_t k) const {
    const float reach = tile_.Reach(k);
    if (most_ <= reach) return 0;
    const auto sampled = static_cast<float>(tile_.sampled);
    float escapes = 0;
    for (uint32_t i = 0; i < count_; ++i) {
      if (tile_.largest[slots_[i]] <= reach) continue;
      const float largest = tile_.largest[slots_[i]];
      const float others = (tile_.energy[slots_[i]] - largest * largest) / (reach * reach);
      const float bound = 1.0f + std::max(0.0f, others);
      escapes += bound < sampled ? bound : sampled;
    }
    const auto count = static_cast<uint64_t>(escapes * static_cast<float>(tile_.in.tokens) / sampled);
    return count * kernel::kEcsqEscapeBits * kernel::kEcsqCostUnits;
  }

  const Tile& tile_;
  const CostTriples& costs_;
  const uint32_t* slots_ = nullptr;
  uint32_t count_ = 0;
  uint8_t rows_[kernel::kRansLanes] = {};
  float most_ = 0;
};

// All rungs; the foretold ones where writing others down costs more than they save. Returns bits, about.
uint64_t ChooseRungs(const Tile& tile, std::span<uint8_t> ladder, RungForm& form) {
  uint64_t chosen = 0;
  uint64_t foretold = 0;
  uint32_t start = kEcsqLadder / 3;
  for (uint32_t g = 0; g < ladder.size(); ++g) {
    const GroupCosts costs(tile, g);
    if (!tile.plan.foretold.empty()) start = tile.plan.foretold[g];
    uint64_t cost = 0;
    uint64_t start_cost = 0;
    start = costs.Least(start, cost, start_cost);
    ladder[g] = static_cast<uint8_t>(start);
    chosen += cost;
    foretold += start_cost;
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

template <typename T>
T* Take(std::byte*& at, size_t count) {
  auto* const taken = reinterpret_cast<T*>(at);
  constexpr size_t kAlignment = 64;
  at += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  return taken;
}

}  // namespace

float EcsqReach(uint32_t k, uint32_t layers) { return kReach.of[layers][k]; }

uint32_t EcsqStreamsLog(const EcsqPlan& plan, const EcsqConfig& config, uint32_t tokens, uint64_t bits) {
  const uint64_t values = uint64_t{tokens} * plan.lanes;
  const uint64_t states = kStatesBits * (config.layers + 1);
  bits += values * config.layers;  // a refinement takes about that
  uint32_t log = values < kFewValues ? 0 : values < kManyValues ? 2 : 3;
  while (log > 0 && (tokens % (1u << log) != 0 || (states << log) * kStatesShare > bits)) --log;
  return log;
}

int32_t TileStepLog(const EcsqPlan& plan, uint32_t head, uint8_t code) {
  if (code == 0) return 0;
  return kScalePitch * (int32_t{code} - kScaleCentre) + kEcsqStepOfDeviation - plan.shift_of_head[head];
}

bool ChooseEcsq(const EcsqPlan& plan, const EcsqConfig& config, const tensor::ConstTileView& in,
                const uint16_t* const* rows, Workspace& workspace, EcsqChoice& choice) {
  const size_t slots = plan.rows.slots();
  const size_t max_escapes = in.values() / kEcsqValuesPerEscape;
  const size_t lanes = size_t{plan.groups()} * kernel::kRansLanes;
  const size_t bytes = (2 * slots + lanes + plan.rows.heads) * sizeof(float) + slots + plan.rows.heads +
                       plan.groups() + max_escapes * sizeof(EcsqEscape) + 9 * 64;
  std::byte* at = workspace.Scratch(bytes, Workspace::Use::kQuantizer).data();
  Tile tile{plan, config, in, rows, in.tokens, nullptr, nullptr, nullptr, nullptr};
  tile.largest = Take<float>(at, slots);
  tile.energy = Take<float>(at, slots);
  tile.deviation = Take<uint8_t>(at, slots);
  tile.inverse_head = Take<float>(at, plan.rows.heads);
  choice.lane_largest = {Take<float>(at, lanes), lanes};
  choice.slot_largest = {tile.largest, slots};
  choice.head_scales = {Take<uint8_t>(at, plan.rows.heads), config.tile_scale ? plan.rows.heads : 0};
  choice.ladder = {Take<uint8_t>(at, plan.groups()), plan.groups()};
  choice.escapes = {Take<EcsqEscape>(at, max_escapes), max_escapes};

  // Not every instruction set writes the slots behind a head; all are rated.
  if (plan.rows.head_dim % kernel::EcsqRows::kGroup != 0) {
    std::fill_n(tile.largest, slots, 0.0f);
    std::fill_n(tile.energy, slots, 0.0f);
  }
  // Elements without a lane are not seen again, and head scales are exact: both take every token.
  const bool sample =
      plan.dropped.empty() && !config.tile_scale && in.tokens >= kSampleStride * kLeastSampled;
  std::array<const uint16_t*, tensor::kTileTokens> sampled;
  if (sample) {
    tile.sampled = 0;
    for (uint32_t t = 0; t < in.tokens; ++t) {
      if (t % (kSampleRun * kSampleStride) < kSampleRun) sampled[tile.sampled++] = rows[t];
    }
  }
  kernel::EcsqRows shape = plan.rows;
  shape.tokens = tile.sampled;
  shape.head_stride = in.head_stride;
  if (!kernel::EcsqMeasure()(shape, sample ? sampled.data() : rows,
                             {plan.mean.data(), plan.inverse_step.data()}, {tile.largest, tile.energy})) {
    return false;
  }
  if (config.tile_scale && !ScaleHeads(tile, choice.head_scales)) return false;
  RateDeviations(tile);
  const uint64_t bits = ChooseRungs(tile, choice.ladder, choice.head.form);
  choice.head.streams_log = EcsqStreamsLog(plan, config, in.tokens, bits);
  std::fill(choice.lane_largest.begin(), choice.lane_largest.end(), 0.0f);
  return true;
}

bool FindEscapes(const EcsqPlan& plan, const EcsqLaneTables& tables, uint32_t layers,
                 const tensor::ConstTileView& in, const uint16_t* const* rows, EcsqChoice& choice) {
  size_t count = 0;
  const auto scan = [&](uint32_t element, float mean, float inverse, float reach) {
    const size_t at = element / plan.rows.head_dim * in.head_stride + element % plan.rows.head_dim;
    for (uint32_t t = 0; t < in.tokens; ++t) {
      const uint16_t bits = rows[t][at];
      const float level = (tensor::Bf16ToFloat(bits) - mean) * inverse;
      if (!(std::fabs(level) > reach)) continue;
      if (count == choice.escapes.size()) return false;
      choice.escapes[count++] = {t * plan.elements + element, bits};
    }
    return true;
  };
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    const float reach = EcsqReach(choice.ladder[g], layers);
    const float* largest = choice.lane_largest.data() + g * kernel::kRansLanes;
    uint32_t beyond = 0;
    for (uint32_t i = 0; i < kernel::kRansLanes; ++i) beyond += largest[i] > reach ? 1 : 0;
    if (beyond == 0) continue;
    const kernel::RansScale& scale = tables.scales[g];
    const uint32_t first = g * kernel::kRansLanes;
    for (uint32_t lane = first; lane < std::min(first + kernel::kRansLanes, plan.lanes); ++lane) {
      const uint32_t i = kernel::RansScale::index(lane - first);
      if (largest[i] <= reach) continue;
      if (!scan(plan.element_of_lane[lane], scale.mean[i], scale.inverse_step[i], reach)) return false;
    }
  }
  for (const uint32_t element : plan.dropped) {
    const uint32_t slot = plan.slot_of_element[element];
    if (choice.slot_largest[slot] <= kernel::kEcsqEscapeExcess) continue;
    if (!scan(element, plan.mean[slot], plan.inverse_step[slot], kernel::kEcsqEscapeExcess)) return false;
  }
  choice.escapes = choice.escapes.first(count);
  choice.head.has_escapes = count > 0;
  std::sort(choice.escapes.begin(), choice.escapes.end(),
            [](const EcsqEscape& a, const EcsqEscape& b) { return a.position < b.position; });
  return true;
}

}  // namespace kvplane::codec
