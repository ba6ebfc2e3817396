// StepRunner: one ragged forward step over packed weights. Internal to Model, which checks the input first.
//
// Approach: rows (tokens) are cut into blocks that a worker takes through everything between two attentions:
// output projection, MLP, the next layer's norm, q, k, v, RoPE, KV write. So a layer costs two fork-joins and
// a block's activations stay in a core's cache. Where the weights are large and the rows few, blocks go one
// after the other and the columns of each GEMM are shared out instead. In the last layer only rows whose
// logits are wanted go on past the KV write.
//
// Which way is taken never changes a result: every kernel treats rows alone.
//
// Thread safety: none. Ownership: refers to config, weights, matmul and pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/kernel/activation/activation.h"
#include "kvplane/kernel/attention/attention.h"
#include "kvplane/kernel/norm/norm.h"
#include "kvplane/kernel/rope/rope.h"
#include "kvplane/model/matmul.h"
#include "kvplane/model/model.h"
#include "kvplane/model/rope_table.h"
#include "kvplane/model/weights.h"

namespace kvplane::model {

// Uninitialised memory aligned to a cache line, grown on demand.
class AlignedBuffer {
 public:
  void Reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    data_.reset(new (std::align_val_t{64}) std::byte[bytes]);
    bytes_ = bytes;
  }
  std::byte* bytes() const { return data_.get(); }
  float* floats() const { return reinterpret_cast<float*>(data_.get()); }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t bytes_ = 0;
};

class StepRunner {
 public:
  // `compute`: kBf16 or kF32, as `matmul` was made for.
  StepRunner(const ModelConfig& config, const Weights& weights, ComputeType compute, Matmul& matmul,
             base::ThreadPool& pool);

  // Requires: a step that Model has checked.
  base::Status Run(std::span<const SequenceInput> sequences, LayerObserver* observer,
                   std::vector<float>& logits);

  double attention_seconds() const;  // summed over the workers
  void ResetSeconds();

 private:
  struct Row {
    uint32_t sequence = 0;
    uint32_t position = 0;
    int32_t token = 0;
  };
  // How a pass over rows is shared out.
  struct Blocks {
    uint32_t rows = 0;
    uint32_t block_rows = 0;
    bool parallel = false;  // else one after the other, columns shared out
    uint32_t count() const { return (rows + block_rows - 1) / block_rows; }
  };
  struct AttentionTask {
    uint32_t sequence = 0;
    uint32_t kv_head = 0;
    uint32_t first = 0;  // token of the sequence's share
    uint32_t tokens = 0;
    uint32_t q_row = 0;  // of token `first`
    uint32_t out_row = 0;
  };
  struct alignas(64) Worker {
    AlignedBuffer normed;   // [block, hidden] compute type
    AlignedBuffer wide;     // [block, 2 intermediate] f32: gate and up
    AlignedBuffer gated;    // [block, intermediate] compute type
    AlignedBuffer delta;    // [block, hidden] f32
    AlignedBuffer scratch;  // of attention
    double attention_s = 0;
  };

  void PlanRows(std::span<const SequenceInput> sequences);
  void Reserve();
  Blocks PlanBlocks(uint32_t rows) const;
  template <typename Body>
  void ForBlocks(const Blocks& blocks, const Body& body);

  void Embed(uint32_t first, uint32_t count);
  void BeginLayer(uint32_t layer, const Blocks& blocks, uint32_t first, uint32_t count, Worker& worker,
                  size_t worker_index);
  void FinishLayer(uint32_t layer, const Blocks& blocks, uint32_t first, uint32_t count, Worker& worker,
                   size_t worker_index);
  void Logits(const Blocks& blocks, uint32_t first, uint32_t count, Worker& worker, size_t worker_index,
              float* logits);
  void WriteKv(uint32_t layer, const Row& row, float* qkv) const;
  void NormHeads(const LayerWeights& layer, float* qkv) const;
  void Attention(uint32_t layer, std::span<const SequenceInput> sequences, bool only_logit_rows);
  void PlanAttention(std::span<const SequenceInput> sequences, bool only_logit_rows);
  void Attend(uint32_t layer, const AttentionTask& task, Worker& worker);
  void KeepLogitRows();

  void Norm(const float* x, const std::vector<float>& weight, std::byte* y, size_t row_in_block) const;
  void Multiply(const PackedMatrix& weights, const std::byte* x, uint32_t rows, float* y,
                const Blocks& blocks, size_t worker_index);
  float* residual(uint32_t row) const { return residual_.floats() + size_t{row} * config_.hidden; }
  float* qkv(uint32_t row) const { return qkv_.floats() + size_t{row} * qkv_width_; }
  std::byte* attended(uint32_t row) const {
    return attended_.bytes() + size_t{row} * config_.query_width() * element_bytes_;
  }

  const ModelConfig& config_;
  const Weights& weights_;
  const bool bf16_;
  const size_t element_bytes_;
  const uint32_t qkv_width_;
  size_t layer_bytes_ = 0;
  Matmul& matmul_;
  base::ThreadPool& pool_;
  const kernel::NormKernels& norm_;
  const kernel::RopeKernels& rope_;
  const kernel::ActivationKernels& activation_;
  const kernel::AttentionKernels& attention_;
  RopeTable table_;

  std::span<const SequenceInput> sequences_;  // during Run
  LayerObserver* projections_ = nullptr;      // during Run: who wants them, null when nobody does
  std::vector<Row> rows_;
  std::vector<uint32_t> logit_rows_;  // ascending
  std::vector<AttentionTask> tasks_;
  double attention_work_s_ = 0;  // estimate for tasks_
  AlignedBuffer residual_;       // [rows, hidden] f32
  AlignedBuffer qkv_;            // [rows, qkv_width_] f32
  AlignedBuffer attended_;       // [rows, heads head_dim] compute type
  std::vector<Worker> workers_;
};

}  // namespace kvplane::model
