// Rows of a KV head seen in a frame, without their rotation (RoPE) and their mean, and put back into it.
//
//   remove   y[i]        = (x[i] * cos[i] + x[i + half] * sin[i]) * scale - mean[i]
//            y[i + half] = (x[i + half] * cos[i] - x[i] * sin[i]) * scale - mean[i + half]
//   restore  z = y + mean;  x[i]        = z[i] * cos[i] - z[i + half] * sin[i]
//                           x[i + half] = z[i + half] * cos[i] + z[i] * sin[i]
//
// in the half-split pairing of rope/rope.h; channels from 2 * half on are not rotated. cos and sin carry the
// magnitude of the model's RoPE, scale is 1 / magnitude^2.
//
// Arithmetic is binary32, operation by operation as written (no contraction): all instruction sets give the
// same bytes. Results become bf16 by rounding to nearest even; magnitudes below 2^-126 become zeros of their
// sign. restore() saturates at the largest finite bf16 (NaN becomes that, too): what it writes is finite.
//
// Thread safety: pure functions. Memory is borrowed for the call; nothing outside the stated sizes is read or
// written. rows: [tokens], each [channels] bf16, anywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

// Of a row; as many as a tile's head has at most.
constexpr uint32_t kMaxRowChannels = 1024;

struct RowFrame {
  const float* const* rope = nullptr;  // [tokens], each [2 * half]: cos, then sin; null: not rotated
  uint32_t half = 0;                   // 2 * half <= channels
  float scale = 1.0f;                  // 1 / magnitude^2
  const float* mean = nullptr;         // [channels]; null: not centred
  // Hints. Removing: what comes next lies that many elements behind each row and is fetched meanwhile; 0:
  // nothing does. Restoring: write around the caches where rows are whole aligned vectors, which pays for
  // rows that nobody reads soon.
  size_t ahead = 0;
  bool streaming_stores = false;

  // The frame of the rows from `token` on.
  RowFrame From(uint32_t token) const {
    RowFrame frame = *this;
    if (rope != nullptr) frame.rope += token;
    return frame;
  }
};

namespace internal {
struct RowFrameVariants;
}  // namespace internal

// The kernels of one instruction set. channels <= kMaxRowChannels.
class RowFrameKernels {
 public:
  // sums: [channels], of the rows without their rotation, added in token order; the mean stays.
  void Sum(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, const RowFrame& frame,
           float* sums) const;
  // out: rows of [channels] bf16, `stride` elements apart.
  void Remove(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, const RowFrame& frame,
              uint16_t* out, size_t stride) const;
  // in: rows of [channels] bf16 or f32, `stride` elements apart.
  void Restore(const uint16_t* in, size_t stride, uint32_t tokens, uint32_t channels, const RowFrame& frame,
               uint16_t* const* rows) const;
  void Restore(const float* in, size_t stride, uint32_t tokens, uint32_t channels, const RowFrame& frame,
               uint16_t* const* rows) const;

 private:
  friend RowFrameKernels RowFrames(Isa isa);
  explicit RowFrameKernels(const internal::RowFrameVariants& variants) : variants_(&variants) {}
  const internal::RowFrameVariants* variants_;
};

RowFrameKernels RowFrames(Isa isa);
RowFrameKernels RowFrames();  // of ActiveIsa()

}  // namespace kvplane::kernel
