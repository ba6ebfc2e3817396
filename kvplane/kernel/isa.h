// Which instruction set the kernels use: chosen once, at the first call, from the CPU and KVPLANE_FORCE_ISA.
//
// Every kernel domain (quantize/, attention/, ...) has one file per instruction set; `_scalar` is the
// readable definition the others are tested against. Code for an instruction set is compiled inside
// KVPLANE_TARGET_* function attributes, never by per-file -m flags: an inline function of a shared header
// compiled with -mavx512f could be the copy the linker keeps for the whole program.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kvplane/base/status.h"

#define KVPLANE_TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi,bmi2")))
#define KVPLANE_TARGET_AVX512                                                                            \
  __attribute__((                                                                                        \
      target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bf16,avx2,fma," \
             "f16c,bmi,bmi2")))

namespace kvplane::kernel {

// In order of preference; a CPU that has one has all before it.
enum class Isa : uint8_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

std::string_view Name(Isa isa);  // "scalar", "avx2", "avx512"
base::Result<Isa> ParseIsa(std::string_view name);

// The best this CPU has. kAvx512 needs F, BW, DQ, VL, VBMI, VBMI2, VNNI and BF16 together.
Isa DetectedIsa();

// Every instruction set that can run here, scalar first.
std::span<const Isa> AvailableIsas();

// The one in use: KVPLANE_FORCE_ISA where it is set, legal and available, else DetectedIsa(). An unusable
// setting is reported by ForcedIsaStatus() (the CLI refuses to start) and otherwise ignored.
Isa ActiveIsa();
base::Status ForcedIsaStatus();

}  // namespace kvplane::kernel
