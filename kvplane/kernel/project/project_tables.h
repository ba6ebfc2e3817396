// The kernel tables of the instruction sets; use ProjectKernels() and Project().
#pragma once

#include "kvplane/kernel/project/project.h"

namespace kvplane::kernel::internal {

extern const ProjectKernel kProjectScalar;
extern const ProjectKernel kProjectAvx2;
extern const ProjectKernel kProjectAvx512Wide;  // f32 multiply-add
extern const ProjectKernel kProjectAvx512Dot;   // vdpbf16ps

}  // namespace kvplane::kernel::internal
