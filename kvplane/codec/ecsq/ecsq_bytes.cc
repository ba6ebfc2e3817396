#include "kvplane/codec/ecsq/ecsq_bytes.h"

#include <algorithm>
#include <cmath>

#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/kernel/rans/rans_bytes.h"

namespace kvplane::codec {
namespace {

using kernel::kLevelWindow;

// Scales beyond these would let a value that no stream may hold (2^126 and more) pass as a level.
constexpr float kMaxStep = 0x1p100f;
constexpr size_t kLine = 64;

kernel::LevelRows RowsOf(const EcsqPlan& plan, uint32_t tokens, size_t head_stride) {
  return {tokens, plan.rows.heads, plan.rows.head_dim, head_stride};
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

std::shared_ptr<const EcsqByteLanes> MakeByteLanes(const EcsqPlan& plan) {
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
  bytes->lane_of_element.resize(plan.elements);
  for (uint32_t lane = 0; lane < plan.lanes; ++lane) {
    const uint32_t element = plan.element_of_lane[lane];
    const kernel::RansScale& scale = plan.scales[lane / kernel::kRansLanes];
    const uint32_t i = kernel::RansScale::index(lane % kernel::kRansLanes);
    if (scale.step[i] > kMaxStep || std::fabs(scale.mean[i]) > kMaxStep) return nullptr;
    bytes->mean.data()[element] = scale.mean[i];
    bytes->step.data()[element] = scale.step[i];
    bytes->inverse_step.data()[element] = scale.inverse_step[i];
    bytes->element_of_lane[lane] = static_cast<uint8_t>(element % kLevelWindow);
    bytes->lane_of_element[element] = static_cast<uint8_t>(lane % kLevelWindow);
  }
  return bytes;
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
  const size_t values = out.values();
  const size_t step_bytes = head_scales.empty() ? 0 : plan.elements * sizeof(float);
  std::byte* const memory = workspace.Scratch(step_bytes + values, Workspace::Use::kSymbols).data();
  auto* const levels = reinterpret_cast<int8_t*>(memory + step_bytes);
  int8_t* parts[kernel::kRansMaxStreams];
  for (size_t v = 0; v < streams.size(); ++v) parts[v] = levels + v * shape.tokens * plan.elements;
  // Several short streams, each from its front and its bypass words: too many for the hardware to follow.
  for (const std::span<const std::byte> stream : streams) {
    for (size_t i = 0; i < stream.size(); i += kLine) __builtin_prefetch(stream.data() + i);
  }
  const uint32_t corrupt =
      kernel::RansBytes()->decode(shape, static_cast<uint32_t>(streams.size()), streams.data(), parts);
  if (corrupt != 0) return corrupt;
  const EcsqByteLanes& bytes = *plan.byte_lanes;
  const float* step =
      step_bytes == 0 ? bytes.step.data() : HeadSteps(plan, head_scales, reinterpret_cast<float*>(memory));
  kernel::LevelRowsOf().from_levels(RowsOf(plan, out.tokens, out.head_stride),
                                    {.mean = bytes.mean.data(),
                                     .step = step,
                                     .lane_of_element = bytes.lane_of_element.data(),
                                     .streaming_stores = streaming_stores},
                                    levels, rows);
  return 0;
}

}  // namespace kvplane::codec
