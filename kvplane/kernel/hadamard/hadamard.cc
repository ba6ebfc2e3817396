#include "kvplane/kernel/hadamard/hadamard.h"

#include <bit>
#include <cmath>

#include "kvplane/base/check.h"
#include "kvplane/kernel/hadamard/hadamard_definition.h"

namespace kvplane::kernel {
namespace {

// The order of the Paley factor that makes n a single segment; 0: there is none.
uint32_t PaleyFactor(uint32_t n) {
  if (std::has_single_bit(n)) return 1;
  for (const uint32_t order : {12u, 20u, 28u}) {
    if (n % order == 0 && std::has_single_bit(n / order)) return order;
  }
  return 0;
}

}  // namespace

HadamardPlan::HadamardPlan(uint32_t n) : n_(n) {
  KVPLANE_CHECK(n >= 1 && n <= kMaxRowChannels);
  if (const uint32_t paley = PaleyFactor(n); paley != 0) {
    Append(0, paley, n / paley);
    return;
  }
  for (uint32_t first = 0; first < n; first += segments_[count_ - 1].block) {
    Append(first, 1, std::bit_floor(n - first));
  }
}

void HadamardPlan::Append(uint32_t first, uint32_t paley, uint32_t block) {
  const double order = static_cast<double>(paley) * block;
  segments_[count_++] = {first, paley, block, static_cast<float>(1.0 / std::sqrt(order))};
}

bool PaleyIsNegative(uint32_t order, uint32_t row, uint32_t column) {
  KVPLANE_CHECK((order == 12 || order == 20 || order == 28) && row < order && column < order);
  return (internal::PaleyOf(order, false)[row] >> column & 1u) != 0;
}

void HadamardKernels::Forward(const HadamardPlan& plan, const uint16_t* const* rows, uint32_t tokens,
                              const RowFrame& frame, const float* gains, uint16_t* out, size_t stride) const {
  KVPLANE_DCHECK(2 * frame.half <= plan.n());
  variants_->forward[frame.rope != nullptr][frame.mean != nullptr](plan, rows, tokens, frame, gains, out,
                                                                   stride);
}

void HadamardKernels::Inverse(const HadamardPlan& plan, const uint16_t* in, size_t stride, uint32_t tokens,
                              const RowFrame& frame, const float* gains, uint16_t* const* rows) const {
  KVPLANE_DCHECK(2 * frame.half <= plan.n());
  variants_->inverse[frame.rope != nullptr][frame.mean != nullptr](plan, in, stride, tokens, frame, gains,
                                                                   rows);
}

HadamardKernels Hadamard(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return HadamardKernels(internal::kHadamardAvx512);
    case Isa::kAvx2:
      return HadamardKernels(internal::kHadamardAvx2);
    case Isa::kScalar:
      break;
  }
  return HadamardKernels(internal::kHadamardScalar);
}

HadamardKernels Hadamard() { return Hadamard(ActiveIsa()); }

}  // namespace kvplane::kernel
