// Polynomial for 2^r on [-0.5, 0.5], shared by the vector kernels so that they agree on accuracy.
//
// The Taylor series of exp(r ln 2) to degree 7: its remainder there is below 6e-9, a tenth of an f32 unit in
// the last place, so rounding dominates and a minimax fit would gain nothing.
#pragma once

namespace kvplane::kernel {

constexpr float kExp2Coefficients[] = {1.0f,           0.693147181f,   0.240226507f,    0.0555041087f,
                                       0.00961812911f, 0.00133335581f, 0.000154035304f, 0.0000152527338f};
constexpr float kLog2E = 1.44269504f;
// 2^x is zero in f32 below this.
constexpr float kExp2Floor = -150.0f;

}  // namespace kvplane::kernel
