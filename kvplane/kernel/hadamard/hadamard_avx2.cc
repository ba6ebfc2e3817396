#include "kvplane/kernel/hadamard/hadamard_lanes.h"

namespace kvplane::kernel::internal {
namespace {

template <bool kRope, bool kMean>
KVPLANE_TARGET_AVX2 void Forward(const HadamardPlan& plan, const uint16_t* const* rows, uint32_t tokens,
                                 const RowFrame& frame, const float* gains, uint16_t* out, size_t stride) {
  ForwardInLanes<8, kRope, kMean>(plan, rows, tokens, frame, gains, out, stride);
}

template <bool kRope, bool kMean>
KVPLANE_TARGET_AVX2 void Inverse(const HadamardPlan& plan, const uint16_t* in, size_t stride, uint32_t tokens,
                                 const RowFrame& frame, const float* gains, uint16_t* const* rows) {
  InverseInLanes<8, kRope, kMean>(plan, in, stride, tokens, frame, gains, rows);
}

}  // namespace

constinit const HadamardVariants kHadamardAvx2 = {
    {{Forward<false, false>, Forward<false, true>}, {Forward<true, false>, Forward<true, true>}},
    {{Inverse<false, false>, Inverse<false, true>}, {Inverse<true, false>, Inverse<true, true>}}};

}  // namespace kvplane::kernel::internal
