// Bits of a uniformly quantised lane: what an ideal entropy coder needs for a Gaussian of that deviation.
//
// Entropy of round(x / step) for x ~ N(0, deviation^2); high-rate approximation where the step is small (Gish
// and Pierce, "Asymptotically efficient quantizing", IEEE Trans. Inf. Theory, 1968).
//
// Thread safety: pure functions.
#pragma once

namespace kvplane::profile {

// Bits per value; 0 for a deviation of 0. Requires: step > 0.
double GaussianBits(double deviation, double step);

}  // namespace kvplane::profile
