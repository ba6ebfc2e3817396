#include "kvplane/kernel/exponent/exponent.h"

#include "kvplane/kernel/exponent/exponent_definition.h"

namespace kvplane::kernel {

const ExponentKernels& Exponent(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kExponentAvx512;
    case Isa::kAvx2:
      return internal::kExponentAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kExponentScalar;
}

const ExponentKernels& Exponent() { return Exponent(ActiveIsa()); }

}  // namespace kvplane::kernel
