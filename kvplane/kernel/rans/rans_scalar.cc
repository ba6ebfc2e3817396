#include <algorithm>
#include <cmath>

#include "kvplane/kernel/rans/rans_driver.h"
#include "kvplane/kernel/rans/rans_lanes_scalar.h"

// The definition, one lane at a time; the other instruction sets are tested against it.

namespace kvplane::kernel::internal {
namespace {

// One step. `bypass` points behind the step's words on entry of encoding, at them on entry of decoding.
void EncodeStep(EncodeState& state, const int32_t* levels, uint32_t live, RansRung rung, std::byte*& bypass) {
  const uint32_t bits = rung.bypass();
  const int32_t half_range = kRansClassTable[rung.rans_class()].half_range;
  uint32_t planes[kRansMaxBypass] = {};
  for (uint32_t lane = live; lane-- > 0;) {
    const int32_t shifted = levels[lane] + ((1 << bits) >> 1);
    for (uint32_t j = 0; j < bits; ++j) {
      planes[j] |= static_cast<uint32_t>(shifted >> j & 1) << lane;
    }
    state.Push(lane, static_cast<uint32_t>((shifted >> bits) + half_range), kRansEncode[rung.rans_class()]);
  }
  for (uint32_t j = bits; j-- > 0;) base::StoreLe(bypass -= sizeof(uint32_t), planes[j]);
}

void DecodeStep(DecodeState& state, int32_t* levels, uint32_t live, RansRung rung, const std::byte*& bypass) {
  const uint32_t bits = rung.bypass();
  const int32_t half_range = kRansClassTable[rung.rans_class()].half_range;
  for (uint32_t lane = 0; lane < live; ++lane) {
    const auto symbol = static_cast<int32_t>(state.Pop(lane, kRansDecode[rung.rans_class()]));
    int32_t level = (symbol - half_range) * (1 << bits) - ((1 << bits) >> 1);
    for (uint32_t j = 0; j < bits; ++j) {
      const uint32_t plane = base::LoadLe<uint32_t>(bypass + j * sizeof(uint32_t));
      level += static_cast<int32_t>(plane >> lane & 1) << j;
    }
    levels[lane] = level;
  }
  bypass += bits * sizeof(uint32_t);
}

// `largest`: of the group, or null.
bool Quantize(const uint16_t* row, const RansScale& scale, uint32_t live, RansRung rung, int32_t* levels,
              float* largest) {
  const auto lowest = static_cast<float>(rung.min_level());
  const auto highest = static_cast<float>(rung.max_level());
  for (uint32_t lane = 0; lane < live; ++lane) {
    if ((row[lane] & 0x7fff) >= kRansMagnitudeLimit) return false;
    const uint32_t i = RansScale::index(lane);
    const float centred = tensor::Bf16ToFloat(row[lane]) - scale.mean[i];
    const float scaled = centred * scale.inverse_step[i];
    if (largest != nullptr) largest[i] = std::max(largest[i], std::fabs(scaled));
    // Clamping to integers before rounding equals clamping after.
    levels[lane] = static_cast<int32_t>(std::nearbyintf(std::min(std::max(scaled, lowest), highest)));
  }
  return true;
}

void Dequantize(const int32_t* levels, const RansScale& scale, uint32_t live, uint16_t* row) {
  for (uint32_t lane = 0; lane < live; ++lane) {
    const uint32_t i = RansScale::index(lane);
    const float scaled = static_cast<float>(levels[lane]) * scale.step[i];
    const float value = scaled + scale.mean[i];
    const bool subnormal = std::fabs(value) < 0x1p-126f;
    row[lane] = tensor::FloatToBf16(subnormal ? std::copysign(0.0f, value) : value);
  }
}

struct ScalarCore {
  static constexpr uint32_t kWidths[] = {1};
  static constexpr bool kPicksRows = false;

  static void Pick(const RansPick*, const uint32_t* sources, uint32_t count, const uint16_t* absent,
                   const uint16_t* from, uint16_t* to) {
    PickOne(sources, count, absent, from, to);
  }

  static void Copy(const uint16_t* from, uint32_t count, bool /*streaming*/, uint16_t* to) {
    std::memcpy(to, from, count * sizeof(uint16_t));
  }

  template <uint32_t>
  static void EncodeLevels(EncodeJob& job) {
    const RansShape& shape = *job.shape;
    EncodeState state(job.at[0]);
    std::byte* bypass = job.bypass[0] + RansBypassBytes(shape);
    for (size_t step = shape.steps(); step-- > 0;) {
      const auto g = static_cast<uint32_t>(step % shape.groups());
      const RansRung rung = shape.rungs[g];
      const uint32_t live = LiveLanes(shape, g);
      int32_t levels[kRansLanes];
      for (uint32_t lane = 0; lane < live; ++lane) {
        const int32_t level = job.levels[0][step * kRansLanes + lane];
        levels[lane] = std::clamp(level, rung.min_level(), rung.max_level());
      }
      EncodeStep(state, levels, live, rung, bypass);
    }
    job.at[0] = state.Finish();
  }

  template <uint32_t>
  static void DecodeLevels(DecodeJob& job) {
    const RansShape& shape = *job.shape;
    DecodeState state(job.states[0], job.at[0], job.end[0]);
    const std::byte* bypass = job.bypass[0];
    for (size_t step = 0; step < shape.steps(); ++step) {
      const auto g = static_cast<uint32_t>(step % shape.groups());
      int32_t levels[kRansLanes] = {};
      DecodeStep(state, levels, LiveLanes(shape, g), shape.rungs[g], bypass);
      for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
        job.levels[0][step * kRansLanes + lane] = static_cast<int16_t>(levels[lane]);
      }
    }
    job.corrupt[0] = state.Corrupt();
  }

  template <uint32_t>
  static bool EncodeRows(EncodeJob& job) {
    const RansShape& shape = *job.shape;
    const bool staged = RansNeedsScratch(*job.layout);
    EncodeState state(job.at[0]);
    std::byte* bypass = job.bypass[0] + RansBypassBytes(shape);
    for (uint32_t t = shape.tokens; t-- > 0;) {
      const uint16_t* row = job.rows[0][t];
      if (staged) row = StageIn<ScalarCore>(shape, *job.layout, 0, row, nullptr);
      for (uint32_t g = shape.groups(); g-- > 0;) {
        const uint16_t* group = row + g / job.pieces.head_groups * job.pieces.head_stride +
                                size_t{g % job.pieces.head_groups} * kRansLanes;
        const uint32_t live = LiveLanes(shape, g);
        int32_t levels[kRansLanes];
        float* largest = job.layout->largest == nullptr ? nullptr : job.layout->largest + g * kRansLanes;
        if (!Quantize(group, job.layout->scales[g], live, shape.rungs[g], levels, largest)) return false;
        EncodeStep(state, levels, live, shape.rungs[g], bypass);
      }
    }
    job.at[0] = state.Finish();
    return true;
  }

  template <uint32_t>
  static void DecodeRows(DecodeJob& job) {
    const RansShape& shape = *job.shape;
    const bool staged = RansNeedsScratch(*job.layout);
    DecodeState state(job.states[0], job.at[0], job.end[0]);
    const std::byte* bypass = job.bypass[0];
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      uint16_t* row = staged ? LaneRow(*job.layout, 0) : job.rows[0][t];
      for (uint32_t g = 0; g < shape.groups(); ++g) {
        uint16_t* group = row + g / job.pieces.head_groups * job.pieces.head_stride +
                          size_t{g % job.pieces.head_groups} * kRansLanes;
        const uint32_t live = LiveLanes(shape, g);
        int32_t levels[kRansLanes];
        DecodeStep(state, levels, live, shape.rungs[g], bypass);
        Dequantize(levels, job.layout->scales[g], live, group);
      }
      if (staged) StageOut<ScalarCore>(*job.layout, 0, job.rows[0][t], nullptr);
    }
    job.corrupt[0] = state.Corrupt();
  }
};

}  // namespace

const RansKernels kRansScalar = {RansDriver<ScalarCore>::EncodeLevels, RansDriver<ScalarCore>::DecodeLevels,
                                 RansDriver<ScalarCore>::EncodeRows, RansDriver<ScalarCore>::DecodeRows};

}  // namespace kvplane::kernel::internal
