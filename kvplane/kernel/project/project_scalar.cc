// The definition, and what runs where there is nothing better: one row at a time, a panel's columns in a row
// of sums.
#include <algorithm>

#include "kvplane/kernel/project/project_tables.h"
#include "kvplane/kernel/row_frame/row_frame_definition.h"

namespace kvplane::kernel::internal {
namespace {

// sums: [kPanelColumns] f32 of one row and panel.
void SumPanel(const Projection& p, uint32_t token, uint32_t first, float* __restrict sums) {
  const uint16_t* x = p.x + token * p.x_stride;
  const uint16_t* m = p.matrix->Panel(first);
  const uint32_t width = p.matrix->PanelWidth(first);
  std::fill_n(sums, PackedMatrix::kPanelColumns, 0.0f);
  for (uint32_t k = 0; k < p.depth; k += 2, m += size_t{2} * width) {
    const float even = FromBf16(x[k]);
    const float odd = k + 1 < p.depth ? FromBf16(x[k + 1]) : 0.0f;
    for (uint32_t c = 0; c < width; ++c) {
      sums[c] += even * FromBf16(m[2 * c]);
      sums[c] += odd * FromBf16(m[2 * c + 1]);
    }
  }
}

template <typename Store>
void ForPanels(const Projection& p, Store store) {
  float sums[PackedMatrix::kPanelColumns];
  for (uint32_t t = 0; t < p.tokens; ++t) {
    for (uint32_t first = 0; first < p.columns; first += PackedMatrix::kPanelColumns) {
      SumPanel(p, t, first, sums);
      const uint32_t here = std::min(p.columns - first, PackedMatrix::kPanelColumns);
      for (uint32_t c = 0; c < here; ++c) store(t, first + c, sums[c]);
    }
  }
}

void ToF32(const Projection& p, float* y, size_t y_stride) {
  ForPanels(p, [=](uint32_t t, uint32_t c, float sum) { y[t * y_stride + c] = sum; });
}

void ToBf16Rows(const Projection& p, uint16_t* y, size_t y_stride) {
  ForPanels(p, [=](uint32_t t, uint32_t c, float sum) { y[t * y_stride + c] = ToBf16(sum); });
}

}  // namespace

constinit const ProjectKernel kProjectScalar = {"scalar", Isa::kScalar, ToF32, ToBf16Rows};

}  // namespace kvplane::kernel::internal
