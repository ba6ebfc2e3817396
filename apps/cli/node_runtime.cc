#include "apps/cli/node_runtime.h"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "apps/cli/fault_spec.h"
#include "apps/cli/profile_file.h"
#include "apps/cli/seconds_flag.h"
#include "kvplane/base/log.h"
#include "kvplane/base/units.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/shaped_transport.h"

namespace kvplane::cli {
namespace {

// A shaped link starts each idle period with this many free bytes: one tile's worth, so that short transfers
// are paced like long ones (256 kB would hand a 200-token prompt over for nothing).
constexpr size_t kLinkBurstBytes = 16'000;

// How long the end of a node waits for its store to write what it has taken.
constexpr base::Duration kStoreFlushTime = std::chrono::seconds(10);

base::Result<model::ComputeType> ParseCompute(const std::string& name) {
  for (const auto type : {model::ComputeType::kAuto, model::ComputeType::kBf16, model::ComputeType::kF32}) {
    if (model::Name(type) == name) return type;
  }
  return base::InvalidArgument("--compute '{}': use auto, bf16 or f32", name);
}

// Refuses a wrong flag before the model is loaded, and also when this role would not use it.
base::Status CheckTransferFlags(const RuntimeArgs& args) {
  const std::string listen = KvListen(args);
  const auto endpoint =
      args.kv_transport == "ucx" ? transport::ParseUcxEndpoint(listen) : transport::ParseTcpEndpoint(listen);
  if (!endpoint.ok()) return endpoint.status().Annotate("--kv-listen");
  if (!args.link_rate.empty()) {
    const base::Result<double> rate = base::ParseBitsPerSecond(args.link_rate);
    if (!rate.ok()) return rate.status().Annotate("--link-rate");
  }
  KVPLANE_RETURN_IF_ERROR(ParseFaultPlan(args.kv_fault).status());
  KVPLANE_RETURN_IF_ERROR(SecondsFlag("--stall-timeout-s", args.stall_timeout_s).status());
  KVPLANE_RETURN_IF_ERROR(SecondsFlag("--offer-lease-s", args.offer_lease_s).status());
  return SecondsFlag("--transfer-timeout-s", args.transfer_timeout_s).status();
}

}  // namespace

std::string KvListen(const RuntimeArgs& args) {
  return args.kv_listen.empty() ? args.kv_transport + "://127.0.0.1:0" : args.kv_listen;
}

base::Result<std::unique_ptr<NodeRuntime>> NodeRuntime::Create(const RuntimeArgs& args) {
  KVPLANE_RETURN_IF_ERROR(CheckTransferFlags(args));
  std::unique_ptr<NodeRuntime> runtime(new NodeRuntime());
  base::Result<codec::Strategy> strategy = codec::Strategy::Parse(args.strategy);
  if (!strategy.ok()) return strategy.status().Annotate("--strategy");
  runtime->strategy_ = *std::move(strategy);
  base::Result<codec::ProfileSet> profiles = ReadProfileFiles(args.profiles);
  if (!profiles.ok()) return profiles.status().Annotate("--profile");
  runtime->profiles_ = *std::move(profiles);
  KVPLANE_RETURN_IF_ERROR(runtime->CreateLink(args));
  KVPLANE_RETURN_IF_ERROR(runtime->CreateStore(args));
  KVPLANE_RETURN_IF_ERROR(runtime->LoadModel(args));
  KVPLANE_RETURN_IF_ERROR(runtime->CreateTransfer(args));
  KVPLANE_RETURN_IF_ERROR(runtime->CreateEngine(args));
  return runtime;
}

NodeRuntime::~NodeRuntime() {
  engine_.reset();
  if (store_ == nullptr) return;
  const base::Status status = store_->store->Flush(base::Clock::System().Now() + kStoreFlushTime);
  if (!status.ok()) base::Log(base::LogLevel::kWarn, "flushing the store: {}", status.ToString());
  store_->store->Shutdown();
}

base::Status NodeRuntime::LoadModel(const RuntimeArgs& args) {
  const size_t threads = args.threads != 0 ? args.threads : std::max(1u, std::thread::hardware_concurrency());
  if (threads > 1024) return base::InvalidArgument("--threads {} is beyond 1024", threads);
  pool_ = std::make_unique<base::ThreadPool>(threads);
  model::ModelOptions options;
  KVPLANE_ASSIGN_OR_RETURN(options.compute, ParseCompute(args.compute));
  options.max_step_tokens = args.step_tokens + args.max_running;
  KVPLANE_ASSIGN_OR_RETURN(model_, model::Model::Load(args.model, options, *pool_));
  KVPLANE_ASSIGN_OR_RETURN(tokenizer_, model::Tokenizer::Load(args.model));
  base::Result<model::ChatTemplate> chat_template = model::ChatTemplate::Load(args.model);
  if (chat_template.ok()) {
    chat_template_ = std::make_unique<model::ChatTemplate>(*std::move(chat_template));
  } else if (chat_template.status().code() != base::StatusCode::kNotFound) {
    return chat_template.status();
  }
  base::Log(base::LogLevel::kInfo, "model {}: matmul in {}, {} threads", args.model,
            model::Name(model_->compute()), threads);
  return base::Status::Ok();
}

// What KV connections run over. Refuses unusable keys and an unprotected public address before the model is
// loaded, and also when this role would not use them.
base::Status NodeRuntime::CreateLink(const RuntimeArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const transport::TransportSecurity security,
                           transport::ReadSecurityFiles(args.kv_security));
  auto created = transport::CreateTransport(args.kv_transport, security);
  if (!created.ok()) return created.status().Annotate("--kv-transport");
  transport_ = *std::move(created);
  const transport::Capabilities capabilities = transport_->capabilities();
  KVPLANE_RETURN_IF_ERROR(
      transport::CheckListenPolicy("--kv-listen", KvListen(args), capabilities, args.insecure));
  if (args.role == "unified") return base::Status::Ok();
  base::Log(base::LogLevel::kInfo, "KV connections: {}: {}", transport_->name(), Describe(capabilities));
  if (!args.link_rate.empty()) {
    transport::ShapedOptions options;
    options.burst_bytes = kLinkBurstBytes;
    base::Result<double> rate = base::ParseBitsPerSecond(args.link_rate);
    if (!rate.ok()) return rate.status().Annotate("--link-rate");
    options.bits_per_second = *rate;
    KVPLANE_ASSIGN_OR_RETURN(transport_, transport::ShapedTransport::Create(transport_, options));
  }
  if (!args.kv_fault.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(const transport::FaultPlan plan, ParseFaultPlan(args.kv_fault));
    base::Log(base::LogLevel::kWarn, "damaging what is sent: {}", args.kv_fault);
    transport_ = transport::FaultyTransport::Create(transport_, plan);
  }
  return base::Status::Ok();
}

base::Status NodeRuntime::CreateTransfer(const RuntimeArgs& args) {
  if (args.role == "unified") return base::Status::Ok();
  if (args.role == "prefill") {
    transfer::KvSenderOptions options;
    options.endpoint = KvListen(args);
    options.codec_threads = args.codec_threads;
    options.tile_retries = args.tile_retries;
    KVPLANE_ASSIGN_OR_RETURN(sender_, transfer::KvSender::Create(*transport_, options));
    return base::Status::Ok();
  }
  if (args.role != "decode") {
    return base::InvalidArgument("--role '{}': use unified, prefill or decode", args.role);
  }
  transfer::KvReceiverOptions options;
  options.codec_threads = args.codec_threads;
  options.tile_retries = args.tile_retries;
  KVPLANE_ASSIGN_OR_RETURN(options.stall_timeout, SecondsFlag("--stall-timeout-s", args.stall_timeout_s));
  options.profiles = profiles_;
  KVPLANE_ASSIGN_OR_RETURN(receiver_, transfer::KvReceiver::Create(*transport_, options));
  return base::Status::Ok();
}

base::Status NodeRuntime::CreateStore(const RuntimeArgs& args) {
  KVPLANE_RETURN_IF_ERROR(PrefixOptionsFrom(args.store, nullptr).status());
  KVPLANE_ASSIGN_OR_RETURN(const transport::TransportSecurity security,
                           transport::ReadSecurityFiles(args.kv_security));
  KVPLANE_ASSIGN_OR_RETURN(store_, OpenNodeStore(args.store, security));
  if (store_ != nullptr) {
    base::Log(base::LogLevel::kInfo, "prefixes are kept in {}", store_->store->name());
  }
  return base::Status::Ok();
}

base::Status NodeRuntime::CreateEngine(const RuntimeArgs& args) {
  engine::EngineOptions options;
  base::Result<uint64_t> kv_bytes = base::ParseBytes(args.kv_size);
  if (!kv_bytes.ok()) return kv_bytes.status().Annotate("--kv-size");
  options.kv_bytes = *kv_bytes;
  options.block_tokens = args.block_tokens;
  options.step_tokens = args.step_tokens;
  options.max_running = args.max_running;
  options.max_queued = args.max_queued;
  options.max_context = args.max_context;
  options.default_strategy = strategy_;
  options.profiles = profiles_;
  options.eos_token_ids.assign(tokenizer_->eos_ids().begin(), tokenizer_->eos_ids().end());
  KVPLANE_ASSIGN_OR_RETURN(options.transfer_timeout,
                           SecondsFlag("--transfer-timeout-s", args.transfer_timeout_s));
  KVPLANE_ASSIGN_OR_RETURN(options.offer_lease, SecondsFlag("--offer-lease-s", args.offer_lease_s));
  KVPLANE_ASSIGN_OR_RETURN(options.prefix, PrefixOptionsFrom(args.store, store()));
  KVPLANE_ASSIGN_OR_RETURN(engine_, engine::Engine::Create(*model_, options, sender_.get(), receiver_.get()));
  return base::Status::Ok();
}

}  // namespace kvplane::cli
