#include "kvplane/kernel/row_frame/row_frame_definition.h"

namespace kvplane::kernel::internal {
namespace {

template <bool kRope>
KVPLANE_TARGET_AVX512 void Sum(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                               const RowFrame& frame, float* sums) {
  SumRows<kRope>(rows, tokens, channels, frame, sums);
}

template <bool kRope, bool kMean>
KVPLANE_TARGET_AVX512 void Remove(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                  const RowFrame& frame, uint16_t* out, size_t stride) {
  RemoveRows<kRope, kMean>(rows, tokens, channels, frame, out, stride);
}

template <bool kRope, bool kMean, typename Element>
KVPLANE_TARGET_AVX512 void Restore(const Element* in, size_t stride, uint32_t tokens, uint32_t channels,
                                   const RowFrame& frame, uint16_t* const* rows) {
  RestoreRows<kRope, kMean>(in, stride, tokens, channels, frame, rows);
}

}  // namespace

constinit const RowFrameVariants kRowFramesAvx512 = {
    {Sum<false>, Sum<true>},
    {{Remove<false, false>, Remove<false, true>}, {Remove<true, false>, Remove<true, true>}},
    {{Restore<false, false, uint16_t>, Restore<false, true, uint16_t>},
     {Restore<true, false, uint16_t>, Restore<true, true, uint16_t>}},
    {{Restore<false, false, float>, Restore<false, true, float>},
     {Restore<true, false, float>, Restore<true, true, float>}}};

}  // namespace kvplane::kernel::internal
