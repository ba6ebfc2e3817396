#include "kvplane/kernel/quantize/quantize.h"

#include "kvplane/kernel/quantize/affine_definition.h"

namespace kvplane::kernel {

const QuantizeKernels& Quantize(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kQuantizeAvx512;
    case Isa::kAvx2:
      return internal::kQuantizeAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kQuantizeScalar;
}

const QuantizeKernels& Quantize() { return Quantize(ActiveIsa()); }

}  // namespace kvplane::kernel
