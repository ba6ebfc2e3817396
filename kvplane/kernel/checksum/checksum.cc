#include "kvplane/kernel/checksum/checksum.h"

#include "kvplane/kernel/checksum/crc32c_scalar.h"

namespace kvplane::kernel {
namespace {

constexpr ChecksumKernels kScalar = {internal::Crc32cScalar};
constexpr ChecksumKernels kSse42 = {internal::Crc32cSse42};
constexpr ChecksumKernels kAvx512 = {internal::Crc32cAvx512};

// Every CPU with AVX2 has both; a virtual machine may still hide them.
bool HasCrcInstructions() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}
// The same of those with all of Isa::kAvx512.
bool HasWideMultiplication() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("vpclmulqdq");
}

}  // namespace

const ChecksumKernels& Checksum(Isa isa) {
  static const bool has_instructions = HasCrcInstructions();
  static const bool has_wide_multiplication = HasWideMultiplication();
  if (isa == Isa::kScalar || !has_instructions) return kScalar;
  return isa == Isa::kAvx512 && has_wide_multiplication ? kAvx512 : kSse42;
}

const ChecksumKernels& Checksum() { return Checksum(ActiveIsa()); }

}  // namespace kvplane::kernel
