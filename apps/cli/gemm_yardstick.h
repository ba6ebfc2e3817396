// The yardstick of `bench engine`: oneDNN by itself on the model's matrix shapes, without any of our code
// around it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/model.h"

namespace kvplane::cli {

struct YardstickResult {
  double seconds = 0;  // of one pass over all shapes, per_forward times each
  double flop = 0;     // 2 * rows * n * k, summed alike
};

// Times oneDNN matmuls [rows, k] x [k, n] -> f32, weights packed beforehand, one OpenMP team of `threads`.
// The last shape (the LM head) has `head_rows` rows. Runs every shape once to warm up; the caller repeats and
// takes medians.
class GemmYardstick {
 public:
  static base::Result<GemmYardstick> Create(const std::vector<model::GemmShape>& shapes, uint32_t rows,
                                            uint32_t head_rows, model::ComputeType type, int threads);
  GemmYardstick(GemmYardstick&&) noexcept;
  GemmYardstick& operator=(GemmYardstick&&) noexcept;
  ~GemmYardstick();

  YardstickResult Run();

 private:
  struct State;
  explicit GemmYardstick(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::cli
