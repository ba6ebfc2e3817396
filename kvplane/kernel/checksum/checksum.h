// CRC32C (Castagnoli): polynomial 0x1EDC6F41, reflected, initial value and final xor 0xFFFFFFFF, as iSCSI
// defines it (RFC 3720, section 12.1 and appendix B.4). The checksum of tiles, indexes and frames.
//
// The x86 version runs three independent chains of the crc32 instruction (latency 3, throughput 1) and joins
// them by a carry-less multiplication with x^(8n) mod P; see V. Gopal et al., "Fast CRC computation for iSCSI
// polynomial using CRC32 instruction", Intel, 2011. That is 8 bytes a cycle. With AVX-512 and vpclmulqdq, 256
// bytes are folded onto the next 256 by carry-less multiplications; see V. Gopal et al., "Fast CRC
// computation for generic polynomials using PCLMULQDQ instruction", Intel, 2009.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

struct ChecksumKernels {
  // Continues `crc` (0 to start) over `bytes`: crc32c(crc32c(0, a), b) == crc32c(0, a + b).
  uint32_t (*crc32c)(uint32_t crc, std::span<const std::byte> bytes);
};

const ChecksumKernels& Checksum(Isa isa);  // requires: `isa` is available
const ChecksumKernels& Checksum();         // the active one

inline uint32_t Crc32c(std::span<const std::byte> bytes) { return Checksum().crc32c(0, bytes); }

}  // namespace kvplane::kernel
