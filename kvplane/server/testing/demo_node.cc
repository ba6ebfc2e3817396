#include "kvplane/server/testing/demo_node.h"

#include <filesystem>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/log.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::server::testing {
namespace {

std::filesystem::path DemoFolder() { return std::filesystem::path(KVPLANE_SOURCE_DIR) / "models" / "demo"; }

// The value, or the end of the test program with the reason in its log.
template <typename T>
T Need(base::Result<T> result) {
  if (!result.ok()) base::Log(base::LogLevel::kError, "{}", result.status().ToString());
  KVPLANE_CHECK(result.ok());
  return *std::move(result);
}

}  // namespace

const model::Tokenizer& DemoTokenizer() {
  static const std::unique_ptr<model::Tokenizer> tokenizer = Need(model::Tokenizer::Load(DemoFolder()));
  return *tokenizer;
}

const model::ChatTemplate& DemoChatTemplate() {
  static const model::ChatTemplate chat_template = Need(model::ChatTemplate::Load(DemoFolder()));
  return chat_template;
}

DemoNode::DemoNode(const DemoNodeOptions& options) {
  NodeInfo info;
  info.role = options.role;
  info.model_fingerprint = "demo";
  for (const auto& profile : options.engine.profiles.all()) info.profiles.push_back(profile->id().ToHex());
  transport_ = Need(transport::CreateTransport("tcp"));
  if (options.role == "prefill") {
    sender_ = Need(transfer::KvSender::Create(*transport_, {}));
    const auto endpoint = Need(transport::ParseTcpEndpoint(sender_->endpoint()));
    if (options.names_kv_host) info.kv_host = endpoint.host;
    info.kv_port = endpoint.port;
  } else if (options.role == "decode") {
    transfer::KvReceiverOptions receive;
    receive.profiles = options.engine.profiles;
    receiver_ = Need(transfer::KvReceiver::Create(*transport_, receive));
  }
  engine_ = Need(engine::Engine::Create(engine::DemoModel(options.model_copy), options.engine, sender_.get(),
                                        receiver_.get()));
  const model::ChatTemplate* chat_template = options.chat_template ? &DemoChatTemplate() : nullptr;
  const model::Tokenizer& tokenizer = options.tokenizer != nullptr ? *options.tokenizer : DemoTokenizer();
  server_ = Need(Server::Create(*engine_, tokenizer, chat_template, "demo", std::move(info), options.server));
  thread_ = std::thread([this] { server_->Run(); });
}

DemoNode::~DemoNode() {
  StopServer();
  server_.reset();
  engine_.reset();
}

void DemoNode::StopServer() {
  server_->Stop();
  Join();
}

void DemoNode::Join() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace kvplane::server::testing
