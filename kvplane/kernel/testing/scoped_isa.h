// ScopedIsa: tests and fuzzers run whole codecs on every instruction set of the machine in one process.
#pragma once

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel::testing {

// While it lives, ActiveIsa() is `isa`, and with it the kernels that Quantize(), Rans() and their like give.
// Codecs and coders may have kept the kernels of their time of binding: bind them inside the scope too.
// Requires: isa is available. Thread safety: one at a time, on a process whose other threads run no kernels.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa);
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;
  ~ScopedIsa();

 private:
  int before_;
};

}  // namespace kvplane::kernel::testing
