#include "kvplane/kernel/row_frame/row_frame.h"

#include "kvplane/base/check.h"
#include "kvplane/kernel/row_frame/row_frame_definition.h"

namespace kvplane::kernel {

void RowFrameKernels::Sum(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                          const RowFrame& frame, float* sums) const {
  KVPLANE_DCHECK(channels <= kMaxRowChannels && 2 * frame.half <= channels);
  variants_->sum[frame.rope != nullptr](rows, tokens, channels, frame, sums);
}

void RowFrameKernels::Remove(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                             const RowFrame& frame, uint16_t* out, size_t stride) const {
  KVPLANE_DCHECK(channels <= kMaxRowChannels && 2 * frame.half <= channels);
  variants_->remove[frame.rope != nullptr][frame.mean != nullptr](rows, tokens, channels, frame, out, stride);
}

void RowFrameKernels::Restore(const uint16_t* in, size_t stride, uint32_t tokens, uint32_t channels,
                              const RowFrame& frame, uint16_t* const* rows) const {
  KVPLANE_DCHECK(2 * frame.half <= channels);
  variants_->restore[frame.rope != nullptr][frame.mean != nullptr](in, stride, tokens, channels, frame, rows);
}

void RowFrameKernels::Restore(const float* in, size_t stride, uint32_t tokens, uint32_t channels,
                              const RowFrame& frame, uint16_t* const* rows) const {
  KVPLANE_DCHECK(2 * frame.half <= channels);
  variants_->restore_f32[frame.rope != nullptr][frame.mean != nullptr](in, stride, tokens, channels, frame,
                                                                       rows);
}

RowFrameKernels RowFrames(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return RowFrameKernels(internal::kRowFramesAvx512);
    case Isa::kAvx2:
      return RowFrameKernels(internal::kRowFramesAvx2);
    case Isa::kScalar:
      break;
  }
  return RowFrameKernels(internal::kRowFramesScalar);
}

RowFrameKernels RowFrames() { return RowFrames(ActiveIsa()); }

}  // namespace kvplane::kernel
