#include "kvplane/engine/testing/demo_model.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/log.h"
#include "kvplane/base/rng.h"

namespace kvplane::engine {

namespace {

std::filesystem::path DemoFolder() { return std::filesystem::path(KVPLANE_SOURCE_DIR) / "models" / "demo"; }

struct LoadedModel {
  base::ThreadPool pool{1};
  std::unique_ptr<model::Model> model;

  LoadedModel() {
    model::ModelOptions options;
    options.compute = model::ComputeType::kF32;
    auto loaded = model::Model::Load(DemoFolder(), options, pool);
    if (!loaded.ok()) base::Log(base::LogLevel::kError, "{}", loaded.status().ToString());
    KVPLANE_CHECK(loaded.ok());
    model = *std::move(loaded);
  }
};

}  // namespace

model::Model& DemoModel(int copy) {
  static LoadedModel first;
  if (copy == 0) return *first.model;
  static LoadedModel second;
  return *second.model;
}

const std::vector<GoldenPrompt>& GoldenPrompts() {
  static const std::vector<GoldenPrompt> prompts = [] {
    std::ifstream file(DemoFolder() / "golden.json");
    std::vector<GoldenPrompt> read;
    const nlohmann::json golden = nlohmann::json::parse(file);
    for (const auto& prompt : golden.at("prompts")) {
      read.push_back({.token_ids = prompt.at("token_ids"), .greedy_32 = prompt.at("greedy_32")});
    }
    return read;
  }();
  return prompts;
}

std::vector<int32_t> NoisePrompt(uint64_t seed, size_t count) {
  base::Rng rng(seed);
  const uint64_t vocab = DemoModel().config().vocab;
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(3 + rng.Below(vocab - 3));
  return ids;
}

Request GreedyRequest(std::vector<int32_t> prompt, uint32_t max_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0.0f;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

}  // namespace kvplane::engine
