// Software prefetch of rows. Kernels that do much work per row do not have the next ones in the reorder
// window; they ask for them themselves.
#pragma once

#include <cstdint>

namespace kvplane::kernel {

// Rows a kernel asks for ahead of the one it works on.
constexpr uint32_t kPrefetchRows = 8;

inline void PrefetchRow(const uint16_t* row, uint32_t channels) {
  constexpr uint32_t kLineValues = 64 / sizeof(uint16_t);
  for (uint32_t c = 0; c < channels; c += kLineValues) __builtin_prefetch(row + c);
}

}  // namespace kvplane::kernel
