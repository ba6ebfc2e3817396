#include "kvplane/codec/ecsq/ecsq_lanes.h"

#include <algorithm>

#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"

namespace kvplane::codec {
namespace {

// The plan's scales have step 1 where heads bring their own.
void TakeHeadSteps(const EcsqPlan& plan, uint32_t g, std::span<const uint8_t> head_scales,
                   kernel::RansScale& scale) {
  const uint32_t first = g * kernel::kRansLanes;
  const uint32_t last = std::min(first + kernel::kRansLanes, plan.lanes);
  uint32_t head = ~0u;
  float step = 1.0f;
  float inverse = 1.0f;
  for (uint32_t lane = first; lane < last; ++lane) {
    const uint32_t at = plan.element_of_lane[lane] / plan.rows.head_dim;
    if (at != head) {
      head = at;
      const int32_t log = TileStepLog(plan, head, head_scales[head]);
      step = EcsqExp2(log);
      inverse = EcsqExp2(-log);
    }
    const uint32_t i = kernel::RansScale::index(lane - first);
    scale.step[i] = step;
    scale.inverse_step[i] = inverse;
  }
}

}  // namespace

EcsqLaneTables MakeLaneTables(const EcsqPlan& plan, std::span<const uint8_t> ladder,
                              std::span<const uint8_t> head_scales, Workspace& workspace) {
  const bool own_scales = !head_scales.empty();
  const size_t scale_bytes = own_scales ? plan.groups() * sizeof(kernel::RansScale) : 0;
  const size_t scratch_bytes = kernel::RansScratchBytes(plan.elements);
  const std::span<std::byte> memory =
      workspace.Scratch(scale_bytes + scratch_bytes + plan.groups() * sizeof(kernel::RansRung));
  EcsqLaneTables tables;
  tables.scratch = memory.data() + scale_bytes;
  auto* const rungs = reinterpret_cast<kernel::RansRung*>(tables.scratch + scratch_bytes);
  for (size_t g = 0; g < ladder.size(); ++g) rungs[g] = kernel::RansLadderRung(ladder[g]);
  tables.rungs = rungs;
  tables.scales = plan.scales.data();
  if (!own_scales) return tables;

  auto* const scales = reinterpret_cast<kernel::RansScale*>(memory.data());
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    kernel::RansScale& scale = scales[g];
    scale = plan.scales[g];
    TakeHeadSteps(plan, g, head_scales, scale);
  }
  tables.scales = scales;
  return tables;
}

void FillDropped(const EcsqPlan& plan, const tensor::TileView& out, uint16_t* const* rows) {
  for (const uint32_t element : plan.dropped) {
    const size_t at = element / out.head_dim * out.head_stride + element % out.head_dim;
    for (uint32_t t = 0; t < out.tokens; ++t) rows[t][at] = plan.absent[element];
  }
}

}  // namespace kvplane::codec
