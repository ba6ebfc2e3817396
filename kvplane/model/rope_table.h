// RopeTable: cosines and sines of rotary position embedding for every position, with context extension.
//
// Frequencies (head_dim / 2 of them) come from the base theta and one of
//   default  theta^(-2i / head_dim)                                       Su et al., "RoFormer", 2021
//   linear   the same divided by factor                                   Chen et al., "Position
//   interpolation", 2023 llama3   long wavelengths divided by factor, short ones kept, a ramp between
//   Llama 3.1 release yarn     the same idea with the ramp set by rotations, and cos, sin scaled         Peng
//   et al., "YaRN", 2023
// Angles are position * frequency in f32, as the reference implementations have them: rounding of the angle
// is part of what checkpoints were trained with.
//
// Rows are computed when first needed and kept. Thread safety: Reserve excludes everything else; the const
// members may be called from many threads.
#pragma once

#include <cstdint>
#include <vector>

#include "kvplane/model/model_config.h"

namespace kvplane::model {

// [head_dim / 2] radians per position.
std::vector<float> RopeFrequencies(const RopeConfig& config, uint32_t head_dim);

class RopeTable {
 public:
  RopeTable(const RopeConfig& config, uint32_t head_dim);

  // Makes rows [0, positions) available.
  void Reserve(uint32_t positions);

  // [head_dim / 2] f32. Requires: position < what was reserved.
  const float* cos(uint32_t position) const { return table_.data() + size_t{position} * 2 * half_; }
  const float* sin(uint32_t position) const { return cos(position) + half_; }

 private:
  std::vector<float> frequencies_;
  float magnitude_;
  size_t half_;
  std::vector<float> table_;  // [positions, cos | sin, half_]
};

}  // namespace kvplane::model
