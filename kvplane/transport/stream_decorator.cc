#include "kvplane/transport/stream_decorator.h"

#include <utility>

namespace kvplane::transport {
namespace {

class DecoratingListener final : public Listener {
 public:
  DecoratingListener(std::unique_ptr<Listener> inner, std::shared_ptr<const StreamDecoration> decoration)
      : inner_(std::move(inner)), decoration_(std::move(decoration)) {}

  base::Result<std::unique_ptr<Stream>> Accept(base::TimePoint deadline) override {
    KVPLANE_ASSIGN_OR_RETURN(auto stream, inner_->Accept(deadline));
    return decoration_->wrap(std::move(stream), StreamEnd::kAccepted, "");
  }
  std::string endpoint() const override { return inner_->endpoint(); }
  void Shutdown() override { inner_->Shutdown(); }

 private:
  const std::unique_ptr<Listener> inner_;
  const std::shared_ptr<const StreamDecoration> decoration_;
};

class DecoratingTransport final : public Transport {
 public:
  DecoratingTransport(std::shared_ptr<Transport> inner, StreamDecoration decoration)
      : inner_(std::move(inner)),
        decoration_(std::make_shared<const StreamDecoration>(std::move(decoration))) {}

  std::string_view name() const override { return decoration_->name; }
  Capabilities capabilities() const override { return decoration_->capabilities; }

  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    KVPLANE_ASSIGN_OR_RETURN(auto listener, inner_->Listen(endpoint));
    return std::unique_ptr<Listener>(std::make_unique<DecoratingListener>(std::move(listener), decoration_));
  }

  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                base::TimePoint deadline) override {
    KVPLANE_ASSIGN_OR_RETURN(auto stream, inner_->Connect(endpoint, deadline));
    return decoration_->wrap(std::move(stream), StreamEnd::kConnected, endpoint);
  }

 private:
  const std::shared_ptr<Transport> inner_;
  const std::shared_ptr<const StreamDecoration> decoration_;
};

}  // namespace

std::unique_ptr<Transport> DecorateStreams(std::shared_ptr<Transport> inner, StreamDecoration decoration) {
  return std::make_unique<DecoratingTransport>(std::move(inner), std::move(decoration));
}

}  // namespace kvplane::transport
