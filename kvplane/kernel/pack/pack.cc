#include "kvplane/kernel/pack/pack.h"

namespace kvplane::kernel {

const PackKernels& Packing(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kPackAvx512;
    case Isa::kAvx2:
      return internal::kPackAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kPackScalar;
}

const PackKernels& Packing() { return Packing(ActiveIsa()); }

}  // namespace kvplane::kernel
