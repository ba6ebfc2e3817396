#include "kvplane/codec/ecsq/ecsq_bytes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/rans/rans_bytes.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using kernel::kLevelWindow;

// Scales beyond these would let a value that no stream may hold (2^126 and more) pass as a level.
constexpr float kMaxStep = 0x1p100f;
constexpr size_t kLine = 64;
constexpr int32_t kMaxRatio = 16 * kOctave;
// The profile counts as much as this many tokens.
constexpr uint32_t kPriorTokens = 4;

// Deviations of a lane, in cost rows: those of the profile, moved.
uint32_t RowOf(int32_t ratio, uint32_t shift) {
  const int32_t row = (ratio + 8 * 16 + 8 + 1024 * 16) / 16 - 1024;  // rounded to nearest
  const int32_t moved = row + static_cast<int32_t>(shift) - static_cast<int32_t>(EcsqForecast::kNone);
  return static_cast<uint32_t>(std::clamp(moved, 0, static_cast<int32_t>(kernel::kEcsqCostRows) - 1));
}

// Lanes count by how many of their deviations a level is, those beyond 8 as 8: one outlier among the values
// of a group must not move its rung. Both are in a byte.
constexpr float kCapDeviations = 8.0f;
constexpr float kLeastCap = 4.0f;
constexpr float kByte = 127.0f;

uint8_t CapOf(int32_t ratio) {
  const float cap = kCapDeviations * EcsqExp2(std::clamp(ratio, -kMaxRatio, kMaxRatio));
  return static_cast<uint8_t>(std::clamp(cap, kLeastCap, kByte));
}
int8_t WeightOf(int32_t ratio, int32_t least) {
  const float weight = kByte * EcsqExp2(std::max(least - ratio, -kMaxRatio));
  return static_cast<int8_t>(std::max(weight, 1.0f));
}

// The cost of rung k for lanes of those deviations.
uint32_t CostOf(std::span<const int32_t> ratios, uint32_t shift, uint32_t k) {
  uint32_t cost = 0;
  for (const int32_t ratio : ratios) cost += kernel::kEcsqCost[RowOf(ratio, shift)][k];
  return cost;
}

EcsqForecast ForecastOf(std::span<const int32_t> ratios, std::span<const int8_t> weights, uint32_t foretold) {
  EcsqForecast forecast;
  std::array<uint32_t, EcsqForecast::kShifts> expected{};
  uint32_t k = 0;
  for (uint32_t s = 0; s < EcsqForecast::kShifts; ++s) {
    for (size_t i = 0; i < ratios.size(); ++i) {
      expected[s] += static_cast<uint32_t>(weights[i]) * kernel::kEcsqLevelSize[RowOf(ratios[i], s)];
    }
    // Wider lanes never want a narrower rung.
    uint32_t cost = CostOf(ratios, s, k);
    while (k + 1 < kernel::kEcsqLadder) {
      const uint32_t next = CostOf(ratios, s, k + 1);
      if (next >= cost) break;
      cost = next;
      ++k;
    }
    forecast.rung[s] = static_cast<uint8_t>(k);
    for (uint32_t d = 0; d < EcsqForecast::kWider; ++d) {
      forecast.cost[s][d] = CostOf(ratios, s, std::min(k + d, kernel::kEcsqLadder - 1));
    }
    forecast.foretold[s] = CostOf(ratios, s, foretold);
  }
  forecast.expected = expected[EcsqForecast::kNone];
  for (uint32_t s = 0; s + 1 < EcsqForecast::kShifts; ++s) {
    forecast.above[s] = (expected[s] + expected[s + 1]) / 2;
  }
  return forecast;
}

void MakeForecasts(const EcsqPlan& plan, std::span<const int32_t> ratios, EcsqByteLanes& bytes) {
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    const auto group = ratios.subspan(g * kernel::kRansLanes, kernel::kRansLanes);
    const int32_t least = *std::min_element(group.begin(), group.end());
    for (const int32_t ratio : group) {
      bytes.cap.push_back(CapOf(ratio));
      bytes.weight.push_back(WeightOf(ratio, least));
    }
    const auto weights = std::span(bytes.weight).last(kernel::kRansLanes);
    bytes.forecast.push_back(ForecastOf(group, weights, plan.foretold[g]));
  }
}

kernel::LevelRows RowsOf(const EcsqPlan& plan, uint32_t tokens, size_t head_stride) {
  return {tokens, plan.rows.heads, plan.rows.head_dim, head_stride};
}

bool FitsByte(uint8_t k) { return kernel::RansFitsByte(kernel::RansLadderRung(k)); }

// By rung, and beyond the last as that: the largest level, 127 where that does not fit a byte.
struct HighestLevels {
  uint8_t of[kernel::kEcsqLadder + EcsqForecast::kWider] = {};
  constexpr HighestLevels() {
    for (uint32_t k = 0; k < std::size(of); ++k) {
      const uint32_t rung = std::min(k, kernel::kEcsqLadder - 1);
      of[k] = static_cast<uint8_t>(std::min(kernel::RansLadderRung(rung).max_level(), 127));
    }
  }
};
constexpr HighestLevels kHighest;

// What the encoder notes of a tile, in the workspace.
struct ByteTile {
  ByteTile(const EcsqPlan& plan, size_t values, Workspace& workspace) : room(values / kEcsqValuesPerEscape) {
    const size_t groups = plan.groups();
    levels = reinterpret_cast<int8_t*>(workspace.Scratch(values, Workspace::Use::kSymbols).data());
    std::byte* at =
        workspace
            .Scratch(room * (sizeof(EcsqEscape) + sizeof(uint32_t)) +
                         groups * (sizeof(uint32_t) + sizeof(float) + sizeof(Beyond) + 2) + plan.lanes,
                     Workspace::Use::kQuantizer)
            .data();
    const auto take = [&at](size_t bytes) { return std::exchange(at, at + bytes); };
    highest = reinterpret_cast<uint8_t*>(take(plan.lanes));  // read in vectors: first, where it is aligned
    escapes = reinterpret_cast<EcsqEscape*>(take(room * sizeof(EcsqEscape)));
    above = reinterpret_cast<uint32_t*>(take(room * sizeof(uint32_t)));
    sums = reinterpret_cast<uint32_t*>(take(groups * sizeof(uint32_t)));
    reach = reinterpret_cast<float*>(take(groups * sizeof(float)));
    beyond = reinterpret_cast<Beyond*>(take(groups * sizeof(Beyond)));
    ladder = reinterpret_cast<uint8_t*>(take(groups));
    shifts = reinterpret_cast<uint8_t*>(take(groups));
  }
  // Levels beyond the range of a group's rung and of the next wider ones, 16 bits each: a group has fewer.
  using Beyond = uint64_t;
  static constexpr uint32_t kCountBits = 16;
  static_assert(EcsqForecast::kWider * kCountBits == 64 &&
                tensor::kTileTokens * kernel::kRansLanes < 1u << kCountBits);
  uint32_t beyond_of(uint32_t group, uint32_t wider) const {
    return static_cast<uint16_t>(beyond[group] >> wider * kCountBits);
  }

  size_t room;          // of escapes, and of levels that may be some
  int8_t* levels;       // [tokens, lanes]
  EcsqEscape* escapes;  // [room]
  uint32_t* above;      // [room], as kernel::LevelPosition()
  uint32_t* sums;       // [groups]
  float* reach;         // [groups], EcsqReach() of the rungs
  Beyond* beyond;       // [groups]
  uint8_t* ladder;      // [groups]
  uint8_t* shifts;      // [groups]
  uint8_t* highest;     // [lanes], of the cheapest rung
};

uint8_t ShiftOf(const EcsqForecast& forecast, uint32_t sum, uint32_t tokens) {
  const uint64_t weighted =
      uint64_t{sum} * kernel::kEcsqCostUnits + uint64_t{kPriorTokens} * forecast.expected;
  // At most 127 * 127 * 32 * 256 a token: 32 bits hold it.
  const auto measured = static_cast<uint32_t>(weighted / (tokens + kPriorTokens));
  uint32_t shift = 0;
  for (const uint32_t bound : forecast.above) shift += measured >= bound ? 1 : 0;
  return static_cast<uint8_t>(shift);
}

uint64_t EscapesCost(uint32_t count) {
  return uint64_t{count} * kernel::kEcsqEscapeBits * kernel::kEcsqCostUnits;
}

// Takes wider rungs where that costs less than the escapes that it saves. Leaves in `beyond` and `sums` how
// many levels lie beyond the rung taken, and how much wider than the cheapest it is.
void Widen(const EcsqPlan& plan, uint32_t tokens, std::span<const uint32_t> above, const ByteTile& tile) {
  const uint32_t groups = plan.groups();
  std::fill_n(tile.beyond, groups, ByteTile::Beyond{});
  for (const uint32_t position : above) {
    const uint32_t lane = kernel::LaneOf(position);
    const uint32_t g = lane / kernel::kRansLanes;
    const int32_t size = std::abs(int32_t{tile.levels[kernel::TokenOf(position) * plan.lanes + lane]});
    const uint8_t* highest = kHighest.of + tile.ladder[g];
    // Ranges widen with rungs: one more for all rungs up to the first that holds it.
    uint32_t exceeded = 0;
    for (uint32_t d = 1; d < EcsqForecast::kWider; ++d) exceeded += size > highest[d] ? 1 : 0;
    constexpr uint64_t kOnes = 0x0001000100010001;
    tile.beyond[g] += kOnes >> (EcsqForecast::kWider - 1 - exceeded) * ByteTile::kCountBits;
  }
  for (uint32_t g = 0; g < groups; ++g) {
    const auto& costs = plan.byte_lanes->forecast[g].cost[tile.shifts[g]];
    uint32_t best = 0;
    for (uint32_t d = 1; d < EcsqForecast::kWider && tile.beyond_of(g, d - 1) > 0; ++d) {
      if (tile.ladder[g] + d >= kernel::kEcsqLadder) break;
      if (uint64_t{costs[d]} * tokens + EscapesCost(tile.beyond_of(g, d)) <
          uint64_t{costs[best]} * tokens + EscapesCost(tile.beyond_of(g, best))) {
        best = d;
      }
    }
    tile.ladder[g] = static_cast<uint8_t>(tile.ladder[g] + best);
    tile.sums[g] = best;
  }
}

// The foretold rungs where writing others down costs more than they save. Returns bits, about.
uint64_t SettleRungs(const EcsqPlan& plan, uint32_t tokens, const ByteTile& tile, EcsqChoice& choice) {
  uint64_t chosen = 0;
  uint64_t foretold = 0;
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    const EcsqForecast& forecast = plan.byte_lanes->forecast[g];
    const uint32_t wider = tile.sums[g];
    const uint64_t escapes = EscapesCost(tile.beyond_of(g, wider));
    chosen += uint64_t{forecast.cost[tile.shifts[g]][wider]} * tokens + escapes;
    // Escapes of a wider rung than the one taken are not known; those of this one are an upper bound.
    const bool narrower = plan.foretold[g] < tile.ladder[g];
    foretold += uint64_t{forecast.foretold[tile.shifts[g]]} * tokens + (narrower ? 4 : 1) * escapes;
  }
  choice.head.form = RungFormOf(plan, choice.ladder);
  const size_t groups = choice.ladder.size();
  const size_t bytes = choice.head.form == RungForm::kNibbles ? (groups + 1) / 2 : groups;
  if (choice.head.form != RungForm::kForetold && foretold <= chosen + bytes * 8 * kernel::kEcsqCostUnits) {
    // Narrower rungs would have more levels beyond their range than were looked for.
    bool covered = true;
    for (uint32_t g = 0; g < groups; ++g)
      covered &= kHighest.of[plan.foretold[g]] >= tile.highest[g * kernel::kRansLanes];
    if (covered) {
      std::copy(plan.foretold.begin(), plan.foretold.end(), choice.ladder.begin());
      choice.head.form = RungForm::kForetold;
    }
  }
  return chosen / kernel::kEcsqCostUnits;
}

// The kernel's level of what no int32 holds is -128, whatever the sign; coders clip to the range of the rung,
// on the side where the value lies.
constexpr float kBeyondInt32 = 0x1p31f;

// Those of the levels beyond their rung's range that lie far enough beyond, in the order of `above`. Every
// second one does: without branches.
size_t PickEscapes(const EcsqPlan& plan, const tensor::ConstTileView& in, const uint16_t* const* rows,
                   const ByteTile& tile, std::span<const uint32_t> above) {
  const EcsqByteLanes& bytes = *plan.byte_lanes;
  for (uint32_t g = 0; g < plan.groups(); ++g) tile.reach[g] = EcsqReach(tile.ladder[g], 0);
  const Quotient by_head_dim(in.head_dim);
  const auto bits_of = [&](uint32_t token, uint32_t element) {
    const uint32_t head = by_head_dim.Of(element);
    return rows[token][head * in.head_stride + (element - head * in.head_dim)];
  };
  const auto level_of = [&](uint16_t bits, uint32_t element) {
    const float centred = tensor::Bf16ToFloat(bits) - bytes.mean[element];
    return centred * bytes.inverse_step[element];
  };
  size_t count = 0;
  bool far = false;
  for (const uint32_t position : above) {
    const uint32_t token = kernel::TokenOf(position);
    const uint32_t lane = kernel::LaneOf(position);
    const uint32_t element = plan.element_of_lane[lane];
    const uint16_t bits = bits_of(token, element);
    const float level = level_of(bits, element);
    const bool inside = std::fabs(level) <= tile.reach[lane / kernel::kRansLanes];
    far |= level >= kBeyondInt32;
    tile.escapes[count] = {token * plan.elements + element, bits};
    count += inside ? 0 : 1;
  }
  // Next to never, and a store of bytes among the above would cost all of it 4 %.
  for (size_t i = 0; far && i < above.size(); ++i) {
    const uint32_t token = kernel::TokenOf(above[i]);
    const uint32_t lane = kernel::LaneOf(above[i]);
    const uint32_t element = plan.element_of_lane[lane];
    const bool beyond = level_of(bits_of(token, element), element) >= kBeyondInt32;
    if (beyond) tile.levels[size_t{token} * plan.lanes + lane] = 127;
  }
  return count;
}

// False: a value that no stream may hold, or more escapes than the format does.
bool TakeEscapes(const ByteTile& tile, size_t count, EcsqChoice& choice) {
  if (count > tile.room) return false;
  choice.escapes = {tile.escapes, count};
  choice.head.has_escapes = count > 0;
  for (size_t i = 0; i < count; ++i) {
    const EcsqEscape escape = choice.escapes[i];
    if ((escape.bits & 0x7fff) >= kernel::kRansMagnitudeLimit) return false;
    // Lanes of a token are out of order by a window at most.
    size_t at = i;
    for (; at > 0 && choice.escapes[at - 1].position > escape.position; --at) {
      choice.escapes[at] = choice.escapes[at - 1];
    }
    choice.escapes[at] = escape;
  }
  return true;
}

// What the kernel does not fetch ahead.
void FetchFronts(const kernel::RansShape& shape, std::span<const std::span<const std::byte>> streams) {
  const size_t bypass_bytes = kernel::RansBypassBytes(shape);
  const auto fetch = [](std::span<const std::byte> bytes) {
    const size_t end = std::min(bytes.size(), kernel::kRansBytesAhead);
    for (size_t i = 0; i < end; i += kLine) __builtin_prefetch(bytes.data() + i);
  };
  for (const std::span<const std::byte> stream : streams) {
    fetch(stream);
    fetch(stream.last(std::min(bypass_bytes, stream.size())));
  }
}

// Steps of a tile whose heads bring their own.
const float* HeadSteps(const EcsqPlan& plan, std::span<const uint8_t> head_scales, float* steps) {
  for (uint32_t h = 0; h < plan.rows.heads; ++h) {
    std::fill_n(steps + size_t{h} * plan.rows.head_dim, plan.rows.head_dim,
                EcsqExp2(TileStepLog(plan, h, head_scales[h])));
  }
  return steps;
}

}  // namespace

std::shared_ptr<const EcsqByteLanes> MakeByteLanes(const EcsqPlan& plan, std::span<const int32_t> ratios) {
  const bool windowed = !plan.ordered || plan.order.windowed;
  if (!kernel::LevelRows::Fits(plan.rows.heads, plan.rows.head_dim) || plan.lanes != plan.elements ||
      !windowed) {
    return nullptr;
  }
  auto bytes = std::make_shared<EcsqByteLanes>();
  bytes->mean = SlotFloats(plan.elements, 0.0f);
  bytes->step = SlotFloats(plan.elements, 0.0f);
  bytes->inverse_step = SlotFloats(plan.elements, 0.0f);
  bytes->element_of_lane.resize(plan.elements);
  bytes->lane_of_element.resize(plan.elements / kLevelWindow);
  bytes->picks.resize(plan.elements / EcsqByteLanes::kPicks);
  for (uint32_t lane = 0; lane < plan.lanes; ++lane) {
    const uint32_t element = plan.element_of_lane[lane];
    const kernel::RansScale& scale = plan.scales[lane / kernel::kRansLanes];
    const uint32_t i = kernel::RansScale::index(lane % kernel::kRansLanes);
    if (scale.step[i] > kMaxStep || std::fabs(scale.mean[i]) > kMaxStep) return nullptr;
    bytes->mean.data()[element] = scale.mean[i];
    bytes->step.data()[element] = scale.step[i];
    bytes->inverse_step.data()[element] = scale.inverse_step[i];
    bytes->element_of_lane[lane] = static_cast<uint8_t>(element % kLevelWindow);
    const uint32_t lane_of_window = lane % kernel::kRansByteWindow;
    bytes->lane_of_element[element / kLevelWindow].of[element % kLevelWindow] =
        static_cast<uint8_t>(lane_of_window);
    bytes->picks[element / EcsqByteLanes::kPicks].of[element % EcsqByteLanes::kPicks] =
        kernel::RansBytePick(lane_of_window);
  }
  if (!ratios.empty()) MakeForecasts(plan, ratios, *bytes);
  return bytes;
}

EcsqByteChoice ChooseBytes(const EcsqPlan& plan, const EcsqConfig& config, const tensor::ConstTileView& in,
                           const uint16_t* const* rows, Workspace& workspace, EcsqChoice& choice,
                           const int8_t*& levels) {
  const EcsqByteLanes& bytes = *plan.byte_lanes;
  const kernel::LevelRows shape = RowsOf(plan, in.tokens, in.head_stride);
  const ByteTile tile(plan, in.values(), workspace);
  kernel::LevelRowsOf().to_levels(shape,
                                  {.mean = bytes.mean.data(),
                                   .inverse_step = bytes.inverse_step.data(),
                                   .element_of_lane = bytes.element_of_lane.data(),
                                   .cap = bytes.cap.data(),
                                   .weight = bytes.weight.data()},
                                  rows, tile.levels, tile.sums);
  choice.ladder = {tile.ladder, plan.groups()};
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    tile.shifts[g] = ShiftOf(bytes.forecast[g], tile.sums[g], in.tokens);
    tile.ladder[g] = bytes.forecast[g].rung[tile.shifts[g]];
    std::fill_n(tile.highest + g * kernel::kRansLanes, kernel::kRansLanes, kHighest.of[tile.ladder[g]]);
  }
  const size_t found =
      kernel::LevelRowsOf().find_above(shape, tile.highest, tile.levels, tile.room, tile.above);
  if (found > tile.room) return EcsqByteChoice::kOther;
  const std::span<const uint32_t> above(tile.above, found);
  Widen(plan, in.tokens, above, tile);
  const uint64_t bits = SettleRungs(plan, in.tokens, tile, choice);
  if (!std::all_of(choice.ladder.begin(), choice.ladder.end(), FitsByte)) return EcsqByteChoice::kOther;
  choice.head.streams_log = EcsqStreamsLog(plan, config, in.tokens, bits);
  levels = tile.levels;
  const size_t escapes = PickEscapes(plan, in, rows, tile, above);
  return TakeEscapes(tile, escapes, choice) ? EcsqByteChoice::kChosen : EcsqByteChoice::kRaw;
}

bool DecodesBytes(const EcsqPlan& plan, std::span<const uint8_t> ladder) {
  return plan.byte_lanes != nullptr && kernel::RansBytes() != nullptr &&
         std::all_of(ladder.begin(), ladder.end(),
                     [](uint8_t k) { return kernel::RansFitsByte(kernel::RansLadderRung(k)); });
}

uint32_t DecodeByteStreams(const EcsqPlan& plan, const kernel::RansShape& shape,
                           std::span<const std::span<const std::byte>> streams,
                           std::span<const uint8_t> head_scales, bool streaming_stores,
                           const tensor::TileView& out, uint16_t* const* rows, Workspace& workspace) {
  const EcsqByteLanes& bytes = *plan.byte_lanes;
  kernel::RansByteRows layout = {.heads = plan.rows.heads,
                                 .head_dim = plan.rows.head_dim,
                                 .head_stride = out.head_stride,
                                 .mean = bytes.mean.data(),
                                 .step = bytes.step.data(),
                                 .lane_of_element = bytes.lane_of_element.data()->of,
                                 .pick = bytes.picks.data()->of,
                                 .streaming_stores = streaming_stores};
  if (!head_scales.empty()) {
    std::byte* const memory =
        workspace.Scratch(plan.elements * sizeof(float), Workspace::Use::kSymbols).data();
    layout.step = HeadSteps(plan, head_scales, reinterpret_cast<float*>(memory));
  }
  uint16_t* const* parts[kernel::kRansMaxStreams];
  for (size_t v = 0; v < streams.size(); ++v) parts[v] = rows + v * shape.tokens;
  FetchFronts(shape, streams);
  return kernel::RansBytes()->decode(shape, layout, static_cast<uint32_t>(streams.size()), streams.data(),
                                     parts);
}

}  // namespace kvplane::codec
