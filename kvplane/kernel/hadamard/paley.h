// Hadamard matrices of order 12, 20 and 28, worked out at compile time from quadratic residues (Paley, 1933).
#pragma once

#include <array>
#include <cstdint>

namespace kvplane::kernel::internal {

constexpr uint32_t kMaxPaleyOrder = 28;

// Rows as bit masks: bit c of element r is 1 where the matrix has -1.
using PaleyMatrix = std::array<uint32_t, kMaxPaleyOrder>;

// The quadratic character of a modulo an odd prime q: 0, 1 or -1.
constexpr int QuadraticCharacter(uint32_t a, uint32_t q) {
  if (a % q == 0) return 0;
  for (uint32_t x = 1; x < q; ++x) {
    if (x * x % q == a % q) return 1;
  }
  return -1;
}

// Element of the bordered matrix S = [[0, 1], [border, Q]] with Q[i][j] = character(i - j).
constexpr int BorderedElement(uint32_t q, int border, uint32_t row, uint32_t column) {
  if (row == 0) return column == 0 ? 0 : 1;
  if (column == 0) return border;
  return QuadraticCharacter(row + q - column, q);
}

// Type I, q = 3 modulo 4: I + S with border -1; order q + 1.
constexpr PaleyMatrix PaleyOne(uint32_t q) {
  PaleyMatrix rows{};
  for (uint32_t r = 0; r <= q; ++r) {
    for (uint32_t c = 0; c <= q; ++c) {
      if (BorderedElement(q, -1, r, c) + (r == c ? 1 : 0) < 0) rows[r] |= 1u << c;
    }
  }
  return rows;
}

// Type II, q = 1 modulo 4: S (border 1) times [[1, 1], [1, -1]], and [[1, -1], [-1, -1]] where S is 0; order
// 2 (q + 1).
constexpr PaleyMatrix PaleyTwo(uint32_t q) {
  PaleyMatrix rows{};
  for (uint32_t r = 0; r < 2 * (q + 1); ++r) {
    for (uint32_t c = 0; c < 2 * (q + 1); ++c) {
      const int s = BorderedElement(q, 1, r / 2, c / 2);
      const bool both_odd = r % 2 == 1 && c % 2 == 1;
      const bool negative = s == 0 ? r % 2 == 1 || c % 2 == 1 : (s < 0) != both_odd;
      if (negative) rows[r] |= 1u << c;
    }
  }
  return rows;
}

constexpr PaleyMatrix Transposed(const PaleyMatrix& matrix) {
  PaleyMatrix rows{};
  for (uint32_t r = 0; r < kMaxPaleyOrder; ++r) {
    for (uint32_t c = 0; c < kMaxPaleyOrder; ++c) rows[c] |= (matrix[r] >> c & 1u) << r;
  }
  return rows;
}

// [0]: the matrix, [1]: its transpose.
inline constexpr std::array<PaleyMatrix, 2> kPaley12 = {PaleyOne(11), Transposed(PaleyOne(11))};
inline constexpr std::array<PaleyMatrix, 2> kPaley20 = {PaleyOne(19), Transposed(PaleyOne(19))};
inline constexpr std::array<PaleyMatrix, 2> kPaley28 = {PaleyTwo(13), Transposed(PaleyTwo(13))};

// The same as factors.
using PaleySigns = std::array<std::array<float, kMaxPaleyOrder>, kMaxPaleyOrder>;

constexpr PaleySigns SignsOf(const PaleyMatrix& matrix) {
  PaleySigns signs{};
  for (uint32_t r = 0; r < kMaxPaleyOrder; ++r) {
    for (uint32_t c = 0; c < kMaxPaleyOrder; ++c) signs[r][c] = (matrix[r] >> c & 1u) != 0 ? -1.0f : 1.0f;
  }
  return signs;
}

inline constexpr std::array<PaleySigns, 2> kPaleySigns12 = {SignsOf(kPaley12[0]), SignsOf(kPaley12[1])};
inline constexpr std::array<PaleySigns, 2> kPaleySigns20 = {SignsOf(kPaley20[0]), SignsOf(kPaley20[1])};
inline constexpr std::array<PaleySigns, 2> kPaleySigns28 = {SignsOf(kPaley28[0]), SignsOf(kPaley28[1])};

inline const PaleySigns& PaleySignsOf(uint32_t order, bool transposed) {
  const size_t which = transposed ? 1 : 0;
  if (order == 12) return kPaleySigns12[which];
  return order == 20 ? kPaleySigns20[which] : kPaleySigns28[which];
}

inline const PaleyMatrix& PaleyOf(uint32_t order, bool transposed) {
  const size_t which = transposed ? 1 : 0;
  if (order == 12) return kPaley12[which];
  return order == 20 ? kPaley20[which] : kPaley28[which];
}

}  // namespace kvplane::kernel::internal
