// RoPE of one head in f32, forth and back, by the model's own table (half-split pairing; model/rope_table.h).
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/model/rope_table.h"

namespace kvplane::profile {

// x: [head_dim] f32, in place. Requires: the table holds `position`.
inline void Rotate(std::span<float> x, const model::RopeTable& table, uint32_t position) {
  const size_t half = x.size() / 2;
  const float* cos = table.cos(position);
  const float* sin = table.sin(position);
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

// Undoes Rotate, the table's magnitude too.
inline void Unrotate(std::span<float> x, const model::RopeTable& table, uint32_t position) {
  const size_t half = x.size() / 2;
  const float* cos = table.cos(position);
  const float* sin = table.sin(position);
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    const float square = cos[i] * cos[i] + sin[i] * sin[i];
    x[i] = (a * cos[i] + b * sin[i]) / square;
    x[i + half] = (b * cos[i] - a * sin[i]) / square;
  }
}

}  // namespace kvplane::profile
