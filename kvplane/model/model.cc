#include "kvplane/model/model.h"

#include <new>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/model/matmul.h"
#include "kvplane/model/safetensors.h"
#include "kvplane/model/step_runner.h"
#include "kvplane/model/weights.h"

namespace kvplane::model {
namespace {

base::Status CheckPages(const SequenceInput& sequence, const ModelConfig& config, uint64_t end,
                        size_t index) {
  if (sequence.layers.size() != config.layers) {
    return base::InvalidArgument("sequence {}: pages of {} layers, the model has {}", index,
                                 sequence.layers.size(), config.layers);
  }
  for (const tensor::LayerPages& layer : sequence.layers) {
    const uint64_t covered = uint64_t{layer.format.block_tokens} * layer.pages.size();
    if (covered < end) {
      return base::InvalidArgument("sequence {}: pages cover {} tokens, {} are needed", index, covered, end);
    }
  }
  return base::Status::Ok();
}

base::Status CheckSequence(const SequenceInput& sequence, const ModelConfig& config, size_t index) {
  if (sequence.tokens.empty()) return base::InvalidArgument("sequence {}: no tokens", index);
  if (sequence.all_logits && sequence.no_logits) {
    return base::InvalidArgument("sequence {}: all_logits and no_logits exclude each other", index);
  }
  const uint64_t end = uint64_t{sequence.first_position} + sequence.tokens.size();
  if (end > config.max_context) {
    return base::InvalidArgument("sequence {}: {} tokens, the model's context is {}", index, end,
                                 config.max_context);
  }
  for (size_t t = 0; t < sequence.tokens.size(); ++t) {
    const int32_t token = sequence.tokens[t];
    if (token < 0 || static_cast<uint32_t>(token) >= config.vocab) {
      return base::InvalidArgument("sequence {}: token {} is id {}, the vocabulary has {}", index, t, token,
                                   config.vocab);
    }
  }
  return CheckPages(sequence, config, end, index);
}

ComputeType Choose(ComputeType wanted, const Safetensors& files, const ModelConfig& config) {
  if (wanted != ComputeType::kAuto) return wanted;
  return StoredAsBf16(files, config) ? FasterComputeType() : ComputeType::kF32;
}

}  // namespace

std::string_view Name(ComputeType type) {
  switch (type) {
    case ComputeType::kAuto:
      return "auto";
    case ComputeType::kBf16:
      return "bf16";
    case ComputeType::kF32:
      return "f32";
  }
  return "unknown";
}

struct Model::State {
  ModelConfig config;
  ModelOptions options;
  std::unique_ptr<Matmul> matmul;
  Weights weights;
  std::unique_ptr<StepRunner> runner;
  Counters counters;
};

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;

base::Result<std::unique_ptr<Model>> Model::Load(const std::filesystem::path& folder,
                                                 const ModelOptions& options, base::ThreadPool& pool) {
  if (options.max_step_tokens == 0) return base::InvalidArgument("max_step_tokens is 0");
  auto state = std::make_unique<State>();
  state->options = options;
  KVPLANE_ASSIGN_OR_RETURN(state->config, LoadModelConfig(folder));
  KVPLANE_ASSIGN_OR_RETURN(const Safetensors files, Safetensors::Open(folder));
  KVPLANE_RETURN_IF_ERROR(CheckWeights(files, state->config));
  state->options.compute = Choose(options.compute, files, state->config);
  KVPLANE_ASSIGN_OR_RETURN(state->matmul, Matmul::Create(state->options.compute, pool.size()));
  KVPLANE_ASSIGN_OR_RETURN(state->weights, LoadWeights(files, state->config, *state->matmul));
  state->runner = std::make_unique<StepRunner>(state->config, state->weights, state->options.compute,
                                               *state->matmul, pool);
  return std::unique_ptr<Model>(new Model(std::move(state)));
}

const ModelConfig& Model::config() const { return state_->config; }
tensor::KvGeometry Model::kv_geometry() const { return state_->config.kv_geometry(); }
const std::array<std::byte, 32>& Model::fingerprint() const { return state_->weights.fingerprint; }
ComputeType Model::compute() const { return state_->options.compute; }

base::Status Model::Forward(std::span<const SequenceInput> sequences, LayerObserver* observer,
                            std::vector<float>& logits) {
  const base::TimePoint start = base::Clock::System().Now();
  size_t rows = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    KVPLANE_RETURN_IF_ERROR(CheckSequence(sequences[i], state_->config, i));
    rows += sequences[i].tokens.size();
  }
  if (rows == 0) return base::InvalidArgument("a step without sequences");
  if (rows > state_->options.max_step_tokens) {
    return base::ResourceExhausted("a step of {} tokens, the limit is {}", rows,
                                   state_->options.max_step_tokens);
  }
  try {
    KVPLANE_RETURN_IF_ERROR(state_->runner->Run(sequences, observer, logits));
  } catch (const std::bad_alloc&) {
    return base::ResourceExhausted("no memory for a step of {} tokens", rows);
  }
  Counters& counters = state_->counters;
  counters.gemm_s = state_->matmul->seconds();
  counters.attention_s = state_->runner->attention_seconds();
  counters.total_s += base::ToSeconds(base::Clock::System().Now() - start);
  counters.tokens += rows;
  return base::Status::Ok();
}

const Model::Counters& Model::counters() const { return state_->counters; }

void Model::ResetCounters() {
  state_->matmul->ResetSeconds();
  state_->runner->ResetSeconds();
  state_->counters = {};
}

std::vector<GemmShape> Model::gemm_shapes() const {
  const LayerWeights& layer = state_->weights.layers.front();
  std::vector<GemmShape> shapes;
  for (const PackedMatrix* matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
    shapes.push_back({matrix->n(), matrix->k(), state_->config.layers});
  }
  shapes.push_back({state_->weights.lm_head.n(), state_->weights.lm_head.k(), 1});
  return shapes;
}

}  // namespace kvplane::model
