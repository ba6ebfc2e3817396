#include "kvplane/transfer/kv_sender.h"

#include <utility>

#include "kvplane/transfer/sender_core.h"

namespace kvplane::transfer {
namespace {

class CoreSendSession final : public SendSession {
 public:
  CoreSendSession(std::shared_ptr<SenderCore> core, std::shared_ptr<SendTransfer> transfer)
      : core_(std::move(core)), transfer_(std::move(transfer)) {}

  void PostLayer(uint32_t layer, uint32_t first_token, uint32_t tokens) override {
    core_->PostLayer(transfer_, layer, first_token, tokens);
  }
  void PostFirstToken(FirstToken token) override { core_->PostFirstToken(transfer_, std::move(token)); }
  void LowerQuality(uint16_t thousandths) override { core_->LowerQuality(transfer_, thousandths); }
  base::Status UseStrategy(size_t number) override { return core_->UseStrategy(transfer_, number); }
  void Cancel(std::string_view reason) override { core_->Cancel(transfer_, reason); }

 private:
  const std::shared_ptr<SenderCore> core_;
  const std::shared_ptr<SendTransfer> transfer_;
};

class CoreKvSender final : public KvSender {
 public:
  explicit CoreKvSender(std::shared_ptr<SenderCore> core) : core_(std::move(core)) {}
  ~CoreKvSender() override { core_->Stop(); }

  base::Result<std::shared_ptr<SendSession>> Offer(KvOffer offer) override {
    KVPLANE_ASSIGN_OR_RETURN(auto transfer, core_->Offer(std::move(offer)));
    return std::shared_ptr<SendSession>(std::make_shared<CoreSendSession>(core_, std::move(transfer)));
  }
  base::Result<Withdrawal> Withdraw(std::string_view transfer_id) override {
    return core_->Withdraw(transfer_id);
  }
  base::Status CheckStrategy(const codec::Strategy& strategy,
                             std::shared_ptr<const codec::ModelProfile> profile) override {
    return core_->CheckStrategy(strategy, std::move(profile));
  }
  std::string endpoint() const override { return core_->endpoint(); }
  uint64_t backlog_bytes() const override { return core_->backlog_bytes(); }

 private:
  const std::shared_ptr<SenderCore> core_;
};

}  // namespace

base::Result<std::unique_ptr<KvSender>> KvSender::Create(transport::Transport& transport,
                                                         const KvSenderOptions& options) {
  KVPLANE_ASSIGN_OR_RETURN(auto listener, transport.Listen(options.endpoint));
  auto core = std::make_shared<SenderCore>(std::move(listener), options);
  auto sender = std::make_unique<CoreKvSender>(core);  // stops the core on every way out
  KVPLANE_RETURN_IF_ERROR(core->Start());
  return std::unique_ptr<KvSender>(std::move(sender));
}

}  // namespace kvplane::transfer
