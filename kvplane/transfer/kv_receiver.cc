#include "kvplane/transfer/kv_receiver.h"

#include <utility>

#include "kvplane/transfer/receiver_core.h"

namespace kvplane::transfer {
namespace {

class CoreRecvSession final : public RecvSession {
 public:
  CoreRecvSession(std::shared_ptr<ReceiverCore> core, std::shared_ptr<RecvTransfer> transfer)
      : core_(std::move(core)), transfer_(std::move(transfer)) {}

  void Cancel(std::string_view reason) override { core_->Cancel(transfer_, reason); }
  uint32_t layers_ready() const override { return core_->layers_ready(*transfer_); }

 private:
  const std::shared_ptr<ReceiverCore> core_;
  const std::shared_ptr<RecvTransfer> transfer_;
};

class CoreKvReceiver final : public KvReceiver {
 public:
  explicit CoreKvReceiver(std::shared_ptr<ReceiverCore> core) : core_(std::move(core)) {}
  ~CoreKvReceiver() override { core_->Stop(); }

  base::Result<std::shared_ptr<RecvSession>> Pull(KvPull pull) override {
    KVPLANE_ASSIGN_OR_RETURN(auto transfer, core_->Pull(std::move(pull)));
    return std::shared_ptr<RecvSession>(std::make_shared<CoreRecvSession>(core_, std::move(transfer)));
  }

 private:
  const std::shared_ptr<ReceiverCore> core_;
};

}  // namespace

base::Result<std::unique_ptr<KvReceiver>> KvReceiver::Create(transport::Transport& transport,
                                                             const KvReceiverOptions& options) {
  if (options.stall_timeout <= base::Duration::zero() || options.connect_timeout <= base::Duration::zero()) {
    return base::InvalidArgument("stall_timeout and connect_timeout must be positive");
  }
  if (options.profiles.all().size() > kMaxHelloProfiles) {
    return base::InvalidArgument("{} profiles; a decode node takes at most {}", options.profiles.all().size(),
                                 kMaxHelloProfiles);
  }
  auto core = std::make_shared<ReceiverCore>(transport, options);
  auto receiver = std::make_unique<CoreKvReceiver>(core);  // stops the core on every way out
  KVPLANE_RETURN_IF_ERROR(core->Start());
  return std::unique_ptr<KvReceiver>(std::move(receiver));
}

}  // namespace kvplane::transfer
