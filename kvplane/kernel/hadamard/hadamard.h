// Orthonormal Hadamard transforms of rows with signs: rotations that mix all channels of a head evenly.
//
//   forward  y = RN_bf16(H (g * v))      v = the row in its frame (row_frame/row_frame.h), f32
//   inverse  v = g * (H^T y)             and back out of the frame, saturated, RN_bf16
//
// g [n] are gains: a sign each, times 1 / sqrt(order). H is a matrix of ones and minus ones, put together as
// the segments of a plan say:
//
//   n = 2^k                        one segment: the Walsh-Hadamard matrix in natural (Sylvester) order
//   n = m * 2^k, m = 12, 20, 28    one segment: the Kronecker product of a Paley matrix of order m and that
//                                  (R. E. A. C. Paley, "On orthogonal matrices", 1933: types I, I and II)
//   any other n                    block-diagonal: the powers of two of n, the largest first
//
// Element c = i * 2^k + j of a segment: butterflies over j at distances 1, 2, 4, ... in binary32,
// (a, b) -> (a + b, a - b), then the Paley matrix over i, terms added in order of the column. No contraction:
// all instruction sets give the same bytes.
//
// Thread safety: pure functions. Memory is borrowed for the call. Rows as in row_frame/row_frame.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/row_frame/row_frame.h"

namespace kvplane::kernel {

struct HadamardSegment {
  uint32_t first = 0;  // channel
  uint32_t paley = 1;  // order of the Paley matrix: 1 (none), 12, 20, 28
  uint32_t block = 1;  // 2^k
  float gain = 1.0f;   // RN(1 / sqrt(order)): the magnitude of the gains of its channels

  uint32_t order() const { return paley * block; }
  bool operator==(const HadamardSegment&) const = default;
};

// How n channels are transformed. A value; 1 <= n <= kMaxRowChannels.
class HadamardPlan {
 public:
  explicit HadamardPlan(uint32_t n);

  uint32_t n() const { return n_; }
  std::span<const HadamardSegment> segments() const { return {segments_.data(), count_}; }

 private:
  void Append(uint32_t first, uint32_t paley, uint32_t block);

  static constexpr size_t kMaxSegments = 11;  // the bits of kMaxRowChannels
  uint32_t n_;
  size_t count_ = 0;
  std::array<HadamardSegment, kMaxSegments> segments_;
};

// Whether an element of the Paley matrix of order 12, 20 or 28 is -1.
bool PaleyIsNegative(uint32_t order, uint32_t row, uint32_t column);

namespace internal {
struct HadamardVariants;
}  // namespace internal

// The kernels of one instruction set.
class HadamardKernels {
 public:
  // out: rows of [n] bf16, `stride` elements apart. gains: [n].
  void Forward(const HadamardPlan& plan, const uint16_t* const* rows, uint32_t tokens, const RowFrame& frame,
               const float* gains, uint16_t* out, size_t stride) const;
  // in: rows of [n] bf16, `stride` elements apart.
  void Inverse(const HadamardPlan& plan, const uint16_t* in, size_t stride, uint32_t tokens,
               const RowFrame& frame, const float* gains, uint16_t* const* rows) const;

 private:
  friend HadamardKernels Hadamard(Isa isa);
  explicit HadamardKernels(const internal::HadamardVariants& variants) : variants_(&variants) {}
  const internal::HadamardVariants* variants_;
};

HadamardKernels Hadamard(Isa isa);
HadamardKernels Hadamard();  // of ActiveIsa()

}  // namespace kvplane::kernel
