// Rng: the only source of randomness, always seeded, splittable.
//
// xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021), seeded
// through SplitMix64. Not for secrets: ids that must not be guessed come from OpenSSL.
//
// Thread safety: none; give each thread its own by Split().
#pragma once

#include <cstdint>
#include <limits>

namespace kvplane::base {

class Rng {
 public:
  using result_type = uint64_t;

  explicit Rng(uint64_t seed);

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return std::numeric_limits<uint64_t>::max(); }
  uint64_t operator()() { return Next(); }

  uint64_t Next();
  // Uniform in [0, bound), without modulo bias; bound > 0.
  uint64_t Below(uint64_t bound);
  // Uniform in [0, 1) with 53 random bits.
  double Uniform();
  // Standard normal (Box-Muller, one value per call).
  double Normal();
  // An independent generator; the streams of parent and child do not overlap in practice.
  Rng Split();

 private:
  uint64_t state_[4];
};

}  // namespace kvplane::base
