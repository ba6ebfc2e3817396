#include "kvplane/kernel/bitplane/bitplane.h"

#include "kvplane/kernel/bitplane/bitplane_definition.h"

namespace kvplane::kernel {

const BitplaneKernels& Bitplanes(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kBitplaneAvx512;
    case Isa::kAvx2:
      return internal::kBitplaneAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kBitplaneScalar;
}

const BitplaneKernels& Bitplanes() { return Bitplanes(ActiveIsa()); }

}  // namespace kvplane::kernel
