// Projection of bf16 rows onto the columns of a bf16 matrix: Y [tokens, columns] = X [tokens, depth] * M.
//
// Matrices are packed once: panels of up to 64 columns, in each of them pairs of matrix rows beside each
// other, so that one 64-byte load feeds 16 two-element dot products (vdpbf16ps) without a shuffle:
//
//   packed[panel][pair of rows][column of the panel][2]       missing rows and columns (padding to 16) are 0
//
// A packed matrix may be used with fewer rows (`depth`) and fewer columns than it holds: the leading ones.
//
// Products and sums are binary32. The order of the sums and the treatment of subnormals differ between
// variants, so results agree to the rounding of binary32 sums, not byte for byte (relative to the sum of
// magnitudes, about depth * 2^-24; subnormal inputs may count as 0).
//
// Thread safety: pure functions. Memory is borrowed for the call; nothing outside the stated sizes is read or
// written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

// A packed matrix. Immutable after Pack(); const access from many threads.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // matrix: [rows, columns] bf16, its rows `stride` elements apart.
  static PackedMatrix Pack(const uint16_t* matrix, uint32_t rows, uint32_t columns, size_t stride);

  uint32_t rows() const { return rows_; }
  uint32_t columns() const { return columns_; }
  size_t bytes() const { return lines_.size() * sizeof(Line); }

  static constexpr uint32_t kPanelColumns = 64;
  // The panel that begins at `column`, a multiple of kPanelColumns, and its width in columns, padding
  // included.
  const uint16_t* Panel(uint32_t column) const;
  uint32_t PanelWidth(uint32_t column) const;

 private:
  struct alignas(64) Line {
    uint16_t values[32];
  };
  uint32_t rows_ = 0;
  uint32_t columns_ = 0;
  std::vector<Line> lines_;
};

// What is projected, and where to. depth <= matrix.rows(), columns <= matrix.columns(), all at least 1.
struct Projection {
  const uint16_t* x = nullptr;  // [tokens, depth] bf16, rows x_stride apart, no alignment
  size_t x_stride = 0;
  uint32_t tokens = 0;
  uint32_t depth = 0;
  const PackedMatrix* matrix = nullptr;
  uint32_t columns = 0;
};

// One implementation. Row strides are in elements.
struct ProjectKernel {
  std::string_view name;
  Isa isa;
  void (*to_f32)(const Projection& projection, float* y, size_t y_stride);
  // Rounded to nearest even; magnitudes below 2^-126 become zeros.
  void (*to_bf16)(const Projection& projection, uint16_t* y, size_t y_stride);
};

// Every implementation that can run here: one per instruction set, and two for AVX-512 (dot products of bf16
// pairs, and f32 after widening, for CPUs whose bf16 dot products are slow).
std::span<const ProjectKernel> ProjectKernels();
// The one to use: of ActiveIsa(); of the two for AVX-512 the faster one on this CPU's family.
const ProjectKernel& Project();

}  // namespace kvplane::kernel
