#include "kvplane/engine/engine.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/cache/page_table.h"
#include "kvplane/codec/profile_match.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/control/plan.h"
#include "kvplane/engine/engine_loop.h"
#include "kvplane/engine/run_object.h"

namespace kvplane::engine {

namespace {

// Stop ids are compared with every token: a bound keeps that, and hostile requests, cheap.
constexpr size_t kMaxStopTokenIds = 1024;
// Pages are addressed by 32-bit token counts; far beyond any block size in use.
constexpr uint32_t kMaxBlockTokens = 4096;

base::Status CheckOptions(const EngineOptions& options) {
  if (options.block_tokens == 0 || options.block_tokens > kMaxBlockTokens) {
    return base::InvalidArgument("block_tokens {} is outside [1, {}]", options.block_tokens, kMaxBlockTokens);
  }
  if (options.max_running == 0) return base::InvalidArgument("max_running is 0: nothing could ever run");
  if (options.step_tokens < uint64_t{options.max_running} + tensor::kTileTokens) {
    return base::InvalidArgument(
        "step_tokens {} is below max_running + {} = {}: decoding requests could keep prompts from running",
        options.step_tokens, tensor::kTileTokens, uint64_t{options.max_running} + tensor::kTileTokens);
  }
  if (options.transfer_timeout <= base::Duration{}) {
    return base::InvalidArgument("transfer_timeout must be positive");
  }
  if (options.offer_lease <= base::Duration{}) return base::InvalidArgument("offer_lease must be positive");
  return base::Status::Ok();
}

base::Status CheckIds(std::span<const int32_t> ids, uint32_t vocab, std::string_view what) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= vocab) {
      return base::InvalidArgument("{} {} at position {} is outside the vocabulary of {}", what, ids[i], i,
                                   vocab);
    }
  }
  return base::Status::Ok();
}

base::Result<EngineOptions> Resolve(EngineOptions options, const model::ModelConfig& config) {
  KVPLANE_RETURN_IF_ERROR(CheckOptions(options));
  if (options.max_context > config.max_context) {
    return base::InvalidArgument("max_context {} is beyond the model's {}", options.max_context,
                                 config.max_context);
  }
  if (options.max_context == 0) options.max_context = config.max_context;
  if (options.eos_token_ids.empty()) options.eos_token_ids = config.eos_tokens;
  KVPLANE_RETURN_IF_ERROR(CheckIds(options.eos_token_ids, config.vocab, "end-of-sequence id"));
  return options;
}

// What codes a strategy on this node.
std::shared_ptr<const codec::ModelProfile> ProfileFor(const codec::Strategy& strategy,
                                                      const codec::ProfileSet& profiles) {
  if (!strategy.needs_profile() || profiles.all().empty()) return nullptr;
  return profiles.all().front();
}

// Profiles are of this model, and the default strategy has what it needs.
base::Status CheckProfiles(const EngineOptions& options, const model::Model& model) {
  for (const auto& profile : options.profiles.all()) {
    KVPLANE_RETURN_IF_ERROR(codec::CheckProfileMatches(*profile, model.kv_geometry(), model.fingerprint()));
  }
  const codec::Strategy& strategy = options.default_strategy;
  for (const tensor::Side side : tensor::kSides) {
    const auto codec =
        codec::TileCodec::Create(strategy.side(side), side, ProfileFor(strategy, options.profiles));
    if (!codec.ok()) return codec.status().Annotate("default strategy");
  }
  return base::Status::Ok();
}

// Null without a store.
base::Result<std::unique_ptr<PrefixServices>> CreatePrefix(const model::Model& model,
                                                           const EngineOptions& options) {
  const PrefixOptions& prefix = options.prefix;
  if (prefix.store == nullptr) return std::unique_ptr<PrefixServices>();
  if (prefix.timeout <= base::Duration{})
    return base::InvalidArgument("the store's timeout must be positive");
  if (prefix.quality > store::kLossless || prefix.min_quality > store::kLossless) {
    return base::InvalidArgument("qualities of stored KV are in thousandths: at most {}", store::kLossless);
  }
  const RunShape shape{.geometry = model.kv_geometry(),
                       .model_fingerprint = model.fingerprint(),
                       .rope = RopeHash(model.config().rope),
                       .run_tokens = prefix.run_tokens};
  store::KeySpace keys{.model_fingerprint = shape.model_fingerprint,
                       .rope = shape.rope,
                       .run_tokens = prefix.run_tokens,
                       .tenant = prefix.tenant,
                       .salt = prefix.salt};
  KVPLANE_RETURN_IF_ERROR(keys.Validate());
  auto coding = BindRunCoding(prefix.strategy, ProfileFor(prefix.strategy, options.profiles));
  if (!coding.ok()) return coding.status().Annotate("store strategy");
  return std::make_unique<PrefixServices>(*prefix.store, std::move(keys), shape, options.profiles, prefix,
                                          *std::move(coding));
}

// A prefill node generates the one token that the forward pass over the prompt gives.
uint32_t EffectiveMaxTokens(const Request& request) { return request.remote_decode ? 1 : request.max_tokens; }

class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(model::Model& model, EngineOptions options, std::shared_ptr<KvArena> arena,
                 transfer::KvSender* sender, transfer::KvReceiver* receiver,
                 std::unique_ptr<PrefixServices> prefix)
      : options_(std::move(options)),
        vocab_(model.config().vocab),
        layers_(model.kv_geometry().layers),
        blocks_(arena->pages()),
        sender_(sender),
        can_receive_(receiver != nullptr),
        seeds_(static_cast<uint64_t>(base::Clock::System().Now().time_since_epoch().count())),
        inbox_(std::make_shared<Inbox>()),
        shared_(options_.max_queued),
        prefix_(std::move(prefix)),
        loop_(model, options_, arena, inbox_, shared_,
              Transfers(model, sender, receiver, inbox_, arena, options_.prefix.min_quality), prefix_.get()),
        thread_(&EngineLoop::Run, &loop_) {}

  ~ThreadedEngine() override {
    shared_.RefuseNew();
    inbox_->Post(StopMessage{});
    thread_.join();
  }

  base::Result<base::RequestId> Submit(Request request, std::shared_ptr<EventSink> sink) override;
  base::Result<transfer::Withdrawal> WithdrawOffer(std::string_view transfer_id) override {
    if (sender_ == nullptr) return base::FailedPrecondition("this node has no KV sender");
    return sender_->Withdraw(transfer_id);
  }
  void Cancel(base::RequestId id) override { inbox_->Post(CancelMessage{id}); }
  void Drain(base::TimePoint deadline) override;
  EngineStats stats() const override {
    EngineStats stats = shared_.stats();
    if (prefix_ != nullptr) stats.prefix = prefix_->context.counters.Snapshot();
    return stats;
  }
  const EngineOptions& options() const override { return options_; }

 private:
  base::Status Check(const Request& request) const;
  base::Status CheckRemotes(const Request& request) const;

  const EngineOptions options_;
  const uint32_t vocab_;
  const uint32_t layers_;
  const uint32_t blocks_;
  transfer::KvSender* const sender_;  // null: no prefill for others
  const bool can_receive_;
  base::Mutex seeds_mutex_;
  base::Rng seeds_ KVPLANE_GUARDED_BY(seeds_mutex_);  // for requests that name no seed
  std::shared_ptr<Inbox> inbox_;
  SharedState shared_;
  const std::unique_ptr<PrefixServices> prefix_;  // null: no store
  EngineLoop loop_;
  std::thread thread_;
};

base::Status ThreadedEngine::CheckRemotes(const Request& request) const {
  if (request.remote_decode && request.remote_prefill) {
    return base::InvalidArgument("a request is prefilled or decoded remotely, not both");
  }
  if (request.remote_decode && sender_ == nullptr) {
    return base::FailedPrecondition("this node has no KV sender: it cannot prefill for another");
  }
  if (request.remote_prefill && !can_receive_) {
    return base::FailedPrecondition("this node has no KV receiver: it cannot decode for another");
  }
  if (!request.remote_decode && !request.remote_prefill) return base::Status::Ok();
  const std::string& id =
      request.remote_decode ? request.remote_decode->transfer_id : request.remote_prefill->transfer_id;
  if (id.empty() || id.size() > transfer::kMaxTransferIdBytes) {
    return base::InvalidArgument("transfer id of {} bytes; 1 to {} are allowed", id.size(),
                                 transfer::kMaxTransferIdBytes);
  }
  return base::Status::Ok();
}

base::Status ThreadedEngine::Check(const Request& request) const {
  if (request.prompt.empty()) return base::InvalidArgument("the prompt has no tokens");
  KVPLANE_RETURN_IF_ERROR(CheckIds(request.prompt, vocab_, "prompt token"));
  KVPLANE_RETURN_IF_ERROR(request.sampling.Validate(static_cast<int32_t>(vocab_)));
  if (request.max_tokens == 0) return base::InvalidArgument("max_tokens is 0: there is nothing to generate");
  if (request.min_tokens > request.max_tokens && !request.remote_decode) {
    return base::InvalidArgument("min_tokens {} is above max_tokens {}", request.min_tokens,
                                 request.max_tokens);
  }
  if (request.stop_token_ids.size() > kMaxStopTokenIds) {
    return base::InvalidArgument("{} stop_token_ids; at most {} are allowed", request.stop_token_ids.size(),
                                 kMaxStopTokenIds);
  }
  KVPLANE_RETURN_IF_ERROR(CheckIds(request.stop_token_ids, vocab_, "stop token id"));
  if (request.prompt.size() + uint64_t{EffectiveMaxTokens(request)} > options_.max_context) {
    return base::ResourceExhausted("{} prompt tokens and max_tokens {} exceed the context of {} tokens",
                                   request.prompt.size(), EffectiveMaxTokens(request), options_.max_context);
  }
  return CheckRemotes(request);
}

base::Result<base::RequestId> ThreadedEngine::Submit(Request request, std::shared_ptr<EventSink> sink) {
  KVPLANE_CHECK(sink != nullptr);
  KVPLANE_RETURN_IF_ERROR(Check(request));
  auto state = std::make_unique<RequestState>();
  state->max_tokens = EffectiveMaxTokens(request);
  const uint32_t kv_tokens = MaxKvTokens(static_cast<uint32_t>(request.prompt.size()), state->max_tokens);
  const uint64_t blocks = uint64_t{layers_} * cache::BlocksFor(kv_tokens, options_.block_tokens);
  if (blocks > blocks_) {
    return base::ResourceExhausted("{} prompt tokens and max_tokens {} need {} KV blocks, the cache has {}",
                                   request.prompt.size(), state->max_tokens, blocks, blocks_);
  }
  state->reserve_blocks = static_cast<uint32_t>(blocks);
  if (request.remote_decode) {
    KVPLANE_ASSIGN_OR_RETURN(control::Plan plan,
                             control::Decide({.requested = request.remote_decode->strategy,
                                              .node_default = options_.default_strategy,
                                              .accept_lossy = request.remote_decode->accept_lossy}));
    state->profile = ProfileFor(plan.strategy, options_.profiles);
    if (const base::Status status = sender_->CheckStrategy(plan.strategy, state->profile); !status.ok()) {
      return base::InvalidArgument("strategy: {}", status.message());
    }
    state->strategy = std::move(plan.strategy);
  }
  if (!request.ignore_eos) state->end_ids = options_.eos_token_ids;
  state->end_ids.insert(state->end_ids.end(), request.stop_token_ids.begin(), request.stop_token_ids.end());
  {
    base::MutexLock lock(seeds_mutex_);
    state->sampler.emplace(request.sampling, seeds_.Next());
  }
  state->submitted = base::Clock::System().Now();
  state->request = std::move(request);
  state->sink = std::move(sink);
  KVPLANE_ASSIGN_OR_RETURN(state->id, shared_.Register());
  const base::RequestId id = state->id;
  inbox_->Post(SubmitMessage{std::move(state)});
  return id;
}

void ThreadedEngine::Drain(base::TimePoint deadline) {
  shared_.RefuseNew();
  inbox_->Post(DrainMessage{deadline});
  if (!shared_.WaitUntilIdle(deadline)) {
    // The loop cancels what is left at the deadline; only completions of its transfers are awaited now.
    shared_.WaitUntilIdle(base::Clock::System().Now() + EngineLoop::kStopGrace);
  }
  if (prefix_ != nullptr) prefix_->pusher.WaitUntilIdle(deadline);  // what is coded is to be stored
}

}  // namespace

base::Result<std::unique_ptr<Engine>> Engine::Create(model::Model& model, const EngineOptions& options,
                                                     transfer::KvSender* sender,
                                                     transfer::KvReceiver* receiver) {
  KVPLANE_ASSIGN_OR_RETURN(EngineOptions resolved, Resolve(options, model.config()));
  KVPLANE_RETURN_IF_ERROR(CheckProfiles(resolved, model));
  const tensor::KvGeometry geometry = model.kv_geometry();
  const auto format = tensor::PageFormat::HeadMajor(geometry, resolved.block_tokens);
  KVPLANE_ASSIGN_OR_RETURN(std::shared_ptr<KvArena> arena,
                           KvArena::Create(format, resolved.kv_bytes, geometry.layers));
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<PrefixServices> prefix, CreatePrefix(model, resolved));
  return std::unique_ptr<Engine>(std::make_unique<ThreadedEngine>(
      model, std::move(resolved), std::move(arena), sender, receiver, std::move(prefix)));
}

}  // namespace kvplane::engine
