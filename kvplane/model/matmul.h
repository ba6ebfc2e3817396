// Matmul: y [rows, n] f32 = x [rows, k] * w^T with weights packed once, on oneDNN.
//
// Observations (oneDNN 2.6.3, measured): packed weights are two to four times faster at few rows than plain
// ones; the packed layout is the same for every row count; a primitive with a fixed row count is up to four
// times faster than one with a run-time count; a primitive shared by threads gives wrong results unless each
// call brings its own scratchpad; bf16 throws on CPUs without AVX-512.
//
// Approach: primitives for a fixed list of row counts (kRowBuckets) are made when a shape is first packed, so
// that their number is bounded and no call creates anything. Rows between two buckets are padded in a buffer
// of the worker. A row's result does not depend on the number of rows, on the bucket or on the split
// (matmul_test.cc).
//
// Thread safety: Pack and Reset exclude everything else. Run may be called from many threads with distinct
// workers. Ownership: a PackedMatrix must not outlive its Matmul.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/model/model.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::model {

// Row counts with a primitive of their own. Up to 4 rows cost what one costs; past 64 nothing is gained.
constexpr std::array<uint32_t, 11> kRowBuckets = {1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64};

// Rows of a weight matrix as they lie in a file: [rows, k], row-major.
struct WeightRows {
  const std::byte* bytes = nullptr;
  tensor::DType dtype = tensor::DType::kBf16;
  uint32_t rows = 0;
  uint32_t k = 0;
};

class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  uint32_t n() const;
  uint32_t k() const;
  size_t bytes() const;  // of the packed weights

 private:
  friend class Matmul;
  struct State;
  std::unique_ptr<State> state_;
};

// True when oneDNN can multiply bf16 on this CPU.
bool Bf16MatmulSupported();

// The faster of bf16 and f32 on a representative shape: a measurement of a few milliseconds.
ComputeType FasterComputeType();

class Matmul {
 public:
  // `compute`: kBf16 or kF32, the type of x and of the packed weights. Unimplemented where the CPU cannot.
  static base::Result<std::unique_ptr<Matmul>> Create(ComputeType compute, size_t workers);
  ~Matmul();

  // Packs the rows of all `parts`, one below the other. All parts have the same k.
  base::Result<PackedMatrix> Pack(std::span<const WeightRows> parts);

  // x: [rows, k] bf16 or f32 as `compute` says; y: [rows, n] f32. Runs on the calling thread.
  void Run(const PackedMatrix& weights, const void* x, size_t rows, float* y, size_t worker);

  // The same, with the columns shared out over the pool where that pays. rows <= kRowBuckets.back().
  void RunSplit(const PackedMatrix& weights, const void* x, size_t rows, float* y, base::ThreadPool& pool);

  size_t element_bytes() const;  // of x
  double seconds() const;        // spent in Run and RunSplit, summed over the workers
  void ResetSeconds();

 private:
  struct State;
  explicit Matmul(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::model
