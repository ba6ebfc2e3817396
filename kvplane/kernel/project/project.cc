#include "kvplane/kernel/project/project.h"

#include <algorithm>

#include "kvplane/base/check.h"
#include "kvplane/kernel/project/project_tables.h"

namespace kvplane::kernel {
namespace {

constexpr uint32_t RoundUp(uint32_t x, uint32_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// Order of preference within an instruction set: the last one.
constexpr ProjectKernel const* kAll[] = {&internal::kProjectScalar, &internal::kProjectAvx2,
                                         &internal::kProjectAvx512Wide, &internal::kProjectAvx512Dot};

std::vector<ProjectKernel> Available() {
  std::vector<ProjectKernel> kernels;
  for (const ProjectKernel* kernel : kAll) {
    if (kernel->isa <= DetectedIsa()) kernels.push_back(*kernel);
  }
  return kernels;
}

}  // namespace

PackedMatrix PackedMatrix::Pack(const uint16_t* matrix, uint32_t rows, uint32_t columns, size_t stride) {
  KVPLANE_CHECK(rows >= 1 && columns >= 1);
  PackedMatrix packed;
  packed.rows_ = rows;
  packed.columns_ = columns;
  const uint32_t pairs = (rows + 1) / 2;
  packed.lines_.resize(size_t{pairs} * RoundUp(columns, 16) / 16);
  for (uint32_t first = 0; first < columns; first += kPanelColumns) {
    auto* to = const_cast<uint16_t*>(packed.Panel(first));
    const uint32_t width = packed.PanelWidth(first);
    const uint32_t here = std::min(columns - first, kPanelColumns);
    for (uint32_t pair = 0; pair < pairs; ++pair, to += size_t{2} * width) {
      const uint16_t* even = matrix + size_t{2} * pair * stride + first;
      for (uint32_t c = 0; c < here; ++c) to[2 * c] = even[c];
      if (2 * pair + 1 == rows) continue;
      for (uint32_t c = 0; c < here; ++c) to[2 * c + 1] = even[stride + c];
    }
  }
  return packed;
}

const uint16_t* PackedMatrix::Panel(uint32_t column) const {
  const size_t lines_before = size_t{(rows_ + 1) / 2} * (column / 16);
  return reinterpret_cast<const uint16_t*>(lines_.data() + lines_before);
}

uint32_t PackedMatrix::PanelWidth(uint32_t column) const {
  return std::min(RoundUp(columns_, 16) - column, kPanelColumns);
}

std::span<const ProjectKernel> ProjectKernels() {
  static const std::vector<ProjectKernel> kernels = Available();
  return kernels;
}

const ProjectKernel& Project() {
  // Measured: vdpbf16ps gives 505 GFLOP/s on a Zen 5 core (f32: 250), but 89 on Emerald Rapids (f32: 177).
  static const bool dot_is_fast = __builtin_cpu_is("amd") != 0;
  switch (ActiveIsa()) {
    case Isa::kAvx512:
      return dot_is_fast ? internal::kProjectAvx512Dot : internal::kProjectAvx512Wide;
    case Isa::kAvx2:
      return internal::kProjectAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kProjectScalar;
}

}  // namespace kvplane::kernel
