// Covariance: mean and covariance of float vectors, summed in binary64.
//
// Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvplane::profile {

// A square matrix, row-major.
struct SquareMatrix {
  size_t size = 0;
  std::vector<double> values;  // [size, size]

  static SquareMatrix Zero(size_t size) { return {size, std::vector<double>(size * size)}; }
  double at(size_t row, size_t column) const { return values[row * size + column]; }
  double& at(size_t row, size_t column) { return values[row * size + column]; }
  // Rows and columns [first, first + count).
  SquareMatrix Block(size_t first, size_t count) const;
  double Trace() const;
  bool operator==(const SquareMatrix&) const = default;
};

class Covariance {
 public:
  explicit Covariance(size_t size);

  // rows: [n, size]. Requires: a whole number of rows.
  void Add(std::span<const float> rows);

  size_t size() const { return sum_.size(); }
  uint64_t count() const { return count_; }
  // Of the vectors so far. Require: count() > 0.
  std::vector<double> Mean() const;   // [size]
  SquareMatrix Central() const;       // E[(x - mean)(x - mean)^T]
  SquareMatrix SecondMoment() const;  // E[x x^T]

 private:
  uint64_t count_ = 0;
  std::vector<double> sum_;
  std::vector<double> products_;  // lower triangle
};

}  // namespace kvplane::profile
