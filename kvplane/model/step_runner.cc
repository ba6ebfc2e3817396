#include "kvplane/model/step_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kvplane/base/clock.h"

namespace kvplane::model {
namespace {

constexpr uint32_t kBlockRows = kRowBuckets.back();
// Query rows per attention task: enough to share the unpacking of K and V, few enough to stay in L2.
constexpr uint32_t kAttentionRows = 128;
// Layers up to this size are read again by every worker without harm; larger ones are read once per step.
constexpr size_t kSmallLayerBytes = size_t{4} << 20;
// Below this many seconds of estimated work, waking other workers costs more than it saves.
constexpr double kParallelFromSeconds = 40e-6;
// Rough speeds for that estimate only: they choose who computes, never what.
constexpr double kFlopsPerSecond = 4e11;
constexpr double kAttentionFlopsPerSecond = 2e11;
constexpr double kUnpackValuesPerSecond = 1.5e10;

uint32_t RoundUp(uint32_t value, uint32_t multiple) { return (value + multiple - 1) / multiple * multiple; }

uint32_t LogitCount(const SequenceInput& sequence) {
  if (sequence.no_logits) return 0;
  return sequence.all_logits ? static_cast<uint32_t>(sequence.tokens.size()) : 1;
}

}  // namespace

StepRunner::StepRunner(const ModelConfig& config, const Weights& weights, ComputeType compute, Matmul& matmul,
                       base::ThreadPool& pool)
    : config_(config),
      weights_(weights),
      bf16_(compute == ComputeType::kBf16),
      element_bytes_(bf16_ ? 2 : 4),
      qkv_width_(config.query_width() + 2 * config.kv_width()),
      matmul_(matmul),
      pool_(pool),
      norm_(kernel::NormKernelsFor(kernel::ActiveIsa())),
      rope_(kernel::RopeKernelsFor(kernel::ActiveIsa())),
      activation_(kernel::ActivationKernelsFor(kernel::ActiveIsa())),
      attention_(kernel::AttentionKernelsFor(kernel::ActiveIsa())),
      table_(config.rope, config.head_dim),
      workers_(pool.size()) {
  const LayerWeights& layer = weights.layers.front();
  layer_bytes_ = layer.qkv.bytes() + layer.output.bytes() + layer.gate_up.bytes() + layer.down.bytes();
  const uint32_t group = config.heads / config.kv_heads;
  for (Worker& worker : workers_) {
    worker.normed.Reserve(size_t{kBlockRows} * config.hidden * element_bytes_);
    worker.wide.Reserve(size_t{kBlockRows} * 2 * config.intermediate * sizeof(float));
    worker.gated.Reserve(size_t{kBlockRows} * config.intermediate * element_bytes_);
    worker.delta.Reserve(size_t{kBlockRows} * config.hidden * sizeof(float));
    worker.scratch.Reserve(kernel::AttentionScratchBytes(config.head_dim, std::max(kAttentionRows, group)));
  }
}

base::Status StepRunner::Run(std::span<const SequenceInput> sequences, LayerObserver* observer,
                             std::vector<float>& logits) {
  sequences_ = sequences;
  projections_ = observer != nullptr && observer->WantsProjections() ? observer : nullptr;
  PlanRows(sequences);
  Reserve();
  const Blocks blocks = PlanBlocks(static_cast<uint32_t>(rows_.size()));
  const uint32_t last = config_.layers - 1;
  for (uint32_t layer = 0; layer < config_.layers; ++layer) {
    ForBlocks(blocks, [&](uint32_t first, uint32_t count, Worker& worker, size_t index) {
      if (layer == 0) {
        Embed(first, count);
      } else {
        FinishLayer(layer - 1, blocks, first, count, worker, index);
      }
      BeginLayer(layer, blocks, first, count, worker, index);
    });
    if (observer != nullptr) {
      observer->AfterKvWrite(layer);
      KVPLANE_RETURN_IF_ERROR(observer->BeforeAttention(layer));
    }
    Attention(layer, sequences, layer == last);
  }
  logits.resize(logit_rows_.size() * config_.vocab);
  if (logit_rows_.empty()) return base::Status::Ok();
  KeepLogitRows();
  const Blocks kept = PlanBlocks(static_cast<uint32_t>(logit_rows_.size()));
  ForBlocks(kept, [&](uint32_t first, uint32_t count, Worker& worker, size_t index) {
    FinishLayer(last, kept, first, count, worker, index);
    Logits(kept, first, count, worker, index, logits.data());
  });
  return base::Status::Ok();
}

void StepRunner::PlanRows(std::span<const SequenceInput> sequences) {
  rows_.clear();
  logit_rows_.clear();
  uint32_t positions = 0;
  for (uint32_t s = 0; s < sequences.size(); ++s) {
    const SequenceInput& sequence = sequences[s];
    const auto count = static_cast<uint32_t>(sequence.tokens.size());
    for (uint32_t t = 0; t < count; ++t) {
      if (t + LogitCount(sequence) >= count) logit_rows_.push_back(static_cast<uint32_t>(rows_.size()));
      rows_.push_back({s, sequence.first_position + t, sequence.tokens[t]});
    }
    positions = std::max(positions, sequence.first_position + count);
  }
  table_.Reserve(positions);
}

void StepRunner::Reserve() {
  const size_t rows = rows_.size();
  residual_.Reserve(rows * config_.hidden * sizeof(float));
  qkv_.Reserve(rows * qkv_width_ * sizeof(float));
  attended_.Reserve(rows * config_.query_width() * element_bytes_);
}

StepRunner::Blocks StepRunner::PlanBlocks(uint32_t rows) const {
  Blocks blocks{rows, std::min(rows, kBlockRows), false};
  const auto threads = static_cast<uint32_t>(pool_.size());
  if (threads == 1) return blocks;
  if (layer_bytes_ > kSmallLayerBytes) {
    blocks.parallel = blocks.count() >= threads;
    return blocks;
  }
  const double work = 2.0 * rows * static_cast<double>(layer_bytes_ / element_bytes_) / kFlopsPerSecond;
  if (work < kParallelFromSeconds) return blocks;
  blocks.block_rows = std::min(RoundUp((rows + threads - 1) / threads, 4), kBlockRows);
  blocks.parallel = true;
  return blocks;
}

// body(first row, rows, worker, worker's index)
template <typename Body>
void StepRunner::ForBlocks(const Blocks& blocks, const Body& body) {
  const auto run = [&](size_t block, size_t index) {
    const uint32_t first = static_cast<uint32_t>(block) * blocks.block_rows;
    body(first, std::min(blocks.block_rows, blocks.rows - first), workers_[index], index);
  };
  if (blocks.parallel) {
    pool_.ParallelFor(blocks.count(), run);
    return;
  }
  for (size_t block = 0; block < blocks.count(); ++block) run(block, 0);
}

void StepRunner::Norm(const float* x, const std::vector<float>& weight, std::byte* y,
                      size_t row_in_block) const {
  std::byte* to = y + row_in_block * weight.size() * element_bytes_;
  if (bf16_) {
    norm_.rms_norm_bf16(x, weight.data(), weight.size(), config_.norm_epsilon,
                        reinterpret_cast<uint16_t*>(to));
  } else {
    norm_.rms_norm_f32(x, weight.data(), weight.size(), config_.norm_epsilon, reinterpret_cast<float*>(to));
  }
}

void StepRunner::Multiply(const PackedMatrix& weights, const std::byte* x, uint32_t rows, float* y,
                          const Blocks& blocks, size_t worker_index) {
  if (blocks.parallel) {
    matmul_.Run(weights, x, rows, y, worker_index);
  } else {
    matmul_.RunSplit(weights, x, rows, y, pool_);
  }
}

void StepRunner::Embed(uint32_t first, uint32_t count) {
  for (uint32_t row = first; row < first + count; ++row) {
    weights_.Embed(rows_[row].token, {residual(row), config_.hidden});
  }
}

void StepRunner::BeginLayer(uint32_t layer, const Blocks& blocks, uint32_t first, uint32_t count,
                            Worker& worker, size_t worker_index) {
  const LayerWeights& w = weights_.layers[layer];
  for (uint32_t i = 0; i < count; ++i) Norm(residual(first + i), w.input_norm, worker.normed.bytes(), i);
  Multiply(w.qkv, worker.normed.bytes(), count, qkv(first), blocks, worker_index);
  for (uint32_t row = first; row < first + count; ++row) {
    float* values = qkv(row);
    if (!w.qkv_bias.empty()) norm_.add(values, w.qkv_bias.data(), qkv_width_);
    if (!w.q_norm.empty()) NormHeads(w, values);
    if (projections_ != nullptr) projections_->OnProjections(layer, row, {values, qkv_width_});
    WriteKv(layer, rows_[row], values);
  }
}

void StepRunner::NormHeads(const LayerWeights& layer, float* qkv) const {
  for (uint32_t head = 0; head < config_.heads + config_.kv_heads; ++head) {
    const std::vector<float>& weight = head < config_.heads ? layer.q_norm : layer.k_norm;
    float* x = qkv + size_t{head} * config_.head_dim;
    norm_.rms_norm_f32(x, weight.data(), config_.head_dim, config_.norm_epsilon, x);
  }
}

// Rotates the query heads in place, writes the rotated key heads and the value heads to their page.
void StepRunner::WriteKv(uint32_t layer, const Row& row, float* qkv) const {
  const size_t head_dim = config_.head_dim;
  const size_t half = head_dim / 2;
  const float* cos = table_.cos(row.position);
  const float* sin = table_.sin(row.position);
  for (uint32_t head = 0; head < config_.heads; ++head) rope_.rotate(qkv + head * head_dim, cos, sin, half);
  const tensor::LayerPages& pages = sequences_[row.sequence].layers[layer];
  const tensor::PageFormat& format = pages.format;
  uint16_t* page = pages.pages[row.position / format.block_tokens];
  const uint32_t slot = row.position % format.block_tokens;
  const float* keys = qkv + config_.query_width();
  const float* values = keys + config_.kv_width();
  for (uint32_t head = 0; head < config_.kv_heads; ++head) {
    rope_.rotate_to_bf16(keys + head * head_dim, cos, sin, half,
                         page + format.offset(tensor::Side::kKey, slot, head));
    activation_.round_to_bf16(values + head * head_dim, head_dim,
                              page + format.offset(tensor::Side::kValue, slot, head));
  }
}

void StepRunner::FinishLayer(uint32_t layer, const Blocks& blocks, uint32_t first, uint32_t count,
                             Worker& worker, size_t worker_index) {
  const LayerWeights& w = weights_.layers[layer];
  const size_t hidden = config_.hidden;
  float* delta = worker.delta.floats();
  Multiply(w.output, attended(first), count, delta, blocks, worker_index);
  for (uint32_t i = 0; i < count; ++i) {
    float* x = residual(first + i);
    norm_.add(x, delta + i * hidden, hidden);
    if (!w.output_bias.empty()) norm_.add(x, w.output_bias.data(), hidden);
    Norm(x, w.post_norm, worker.normed.bytes(), i);
  }
  const size_t width = config_.intermediate;
  Multiply(w.gate_up, worker.normed.bytes(), count, worker.wide.floats(), blocks, worker_index);
  for (uint32_t i = 0; i < count; ++i) {
    float* gate = worker.wide.floats() + i * 2 * width;
    if (!w.gate_up_bias.empty()) norm_.add(gate, w.gate_up_bias.data(), 2 * width);
    std::byte* to = worker.gated.bytes() + i * width * element_bytes_;
    if (bf16_) {
      activation_.swiglu_bf16(gate, gate + width, width, reinterpret_cast<uint16_t*>(to));
    } else {
      activation_.swiglu_f32(gate, gate + width, width, reinterpret_cast<float*>(to));
    }
  }
  Multiply(w.down, worker.gated.bytes(), count, delta, blocks, worker_index);
  for (uint32_t i = 0; i < count; ++i) {
    norm_.add(residual(first + i), delta + i * hidden, hidden);
    if (!w.down_bias.empty()) norm_.add(residual(first + i), w.down_bias.data(), hidden);
  }
}

void StepRunner::Logits(const Blocks& blocks, uint32_t first, uint32_t count, Worker& worker,
                        size_t worker_index, float* logits) {
  for (uint32_t i = 0; i < count; ++i)
    Norm(residual(first + i), weights_.final_norm, worker.normed.bytes(), i);
  Multiply(weights_.lm_head, worker.normed.bytes(), count, logits + size_t{first} * config_.vocab, blocks,
           worker_index);
}

// Longest first, so that the last tasks to run are short.
void StepRunner::PlanAttention(std::span<const SequenceInput> sequences, bool only_logit_rows) {
  tasks_.clear();
  attention_work_s_ = 0;
  const uint32_t group = config_.heads / config_.kv_heads;
  const uint32_t per_task = std::max(kAttentionRows / group, 1u);
  uint32_t row = 0;
  uint32_t out_row = 0;
  for (uint32_t s = 0; s < sequences.size(); ++s) {
    const auto count = static_cast<uint32_t>(sequences[s].tokens.size());
    const uint32_t wanted = only_logit_rows ? LogitCount(sequences[s]) : count;
    const uint32_t skipped = count - wanted;
    for (uint32_t done = 0; done < wanted; done += per_task) {
      const uint32_t tokens = std::min(per_task, wanted - done);
      const uint32_t first = skipped + done;
      for (uint32_t head = 0; head < config_.kv_heads; ++head) {
        tasks_.push_back({s, head, first, tokens, row + first, out_row + done});
      }
      const double keys = sequences[s].first_position + first + tokens;
      const double products = 4.0 * keys * tokens * group * config_.head_dim / kAttentionFlopsPerSecond;
      const double unpacked = 2.0 * keys * config_.head_dim / kUnpackValuesPerSecond;
      attention_work_s_ += config_.kv_heads * (products + unpacked);
    }
    row += count;
    out_row += wanted;
  }
  const auto longer = [&](const AttentionTask& a, const AttentionTask& b) {
    const auto keys = [&](const AttentionTask& task) {
      return uint64_t{task.tokens} * (sequences[task.sequence].first_position + task.first + task.tokens);
    };
    if (keys(a) != keys(b)) return keys(a) > keys(b);
    return a.out_row != b.out_row ? a.out_row < b.out_row : a.kv_head < b.kv_head;
  };
  std::sort(tasks_.begin(), tasks_.end(), longer);
}

void StepRunner::Attention(uint32_t layer, std::span<const SequenceInput> sequences, bool only_logit_rows) {
  if (layer == 0 || only_logit_rows) PlanAttention(sequences, only_logit_rows);
  const auto run = [&](size_t task, size_t index) { Attend(layer, tasks_[task], workers_[index]); };
  if (attention_work_s_ >= kParallelFromSeconds) {
    pool_.ParallelFor(tasks_.size(), run);
    return;
  }
  for (size_t task = 0; task < tasks_.size(); ++task) run(task, 0);
}

void StepRunner::Attend(uint32_t layer, const AttentionTask& task, Worker& worker) {
  const base::TimePoint start = base::Clock::System().Now();
  const SequenceInput& sequence = sequences_[task.sequence];
  const uint32_t group = config_.heads / config_.kv_heads;
  const size_t head_offset = size_t{task.kv_head} * group * config_.head_dim;
  kernel::AttentionArgs args;
  args.q = qkv(task.q_row) + head_offset;
  args.q_stride = qkv_width_;
  args.layer = &sequence.layers[layer];
  args.kv_head = task.kv_head;
  args.group = group;
  args.head_dim = config_.head_dim;
  args.tokens = task.tokens;
  args.first_position = sequence.first_position + task.first;
  args.window = config_.windows[layer];
  args.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  args.out_stride = config_.query_width();
  args.scratch = worker.scratch.bytes();
  std::byte* out = attended(task.out_row) + head_offset * element_bytes_;
  if (bf16_) {
    attention_.bf16(args, reinterpret_cast<uint16_t*>(out));
  } else {
    attention_.f32(args, reinterpret_cast<float*>(out));
  }
  worker.attention_s += base::ToSeconds(base::Clock::System().Now() - start);
}

// Moves the residual rows whose logits are wanted to the front, where the last attention has put its output.
void StepRunner::KeepLogitRows() {
  for (uint32_t i = 0; i < logit_rows_.size(); ++i) {
    if (logit_rows_[i] != i)
      std::memcpy(residual(i), residual(logit_rows_[i]), config_.hidden * sizeof(float));
  }
}

double StepRunner::attention_seconds() const {
  double sum = 0;
  for (const Worker& worker : workers_) sum += worker.attention_s;
  return sum;
}

void StepRunner::ResetSeconds() {
  for (Worker& worker : workers_) worker.attention_s = 0;
}

}  // namespace kvplane::model
