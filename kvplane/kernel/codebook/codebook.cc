#include "kvplane/kernel/codebook/codebook.h"

#include <algorithm>

#include "kvplane/kernel/codebook/codebook_definition.h"

namespace kvplane::kernel {

const Magnitudes& LloydMagnitudes(uint32_t bits) { return internal::kLloydMagnitudes[bits - 1]; }
const Magnitudes& E2m1Magnitudes() { return internal::kE2m1Magnitudes; }

float Nvfp4TensorScale(uint16_t largest) {
  if (largest == 0) return 0.0f;
  return std::max(tensor::Bf16ToFloat(largest) * (1.0f / 2688.0f), internal::kNvfp4LeastTensorScale);
}

const CodebookKernels& Codebooks(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kCodebookAvx512;
    case Isa::kAvx2:
      return internal::kCodebookAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kCodebookScalar;
}

const CodebookKernels& Codebooks() {
  static const CodebookKernels& active = Codebooks(ActiveIsa());
  return active;
}

}  // namespace kvplane::kernel
