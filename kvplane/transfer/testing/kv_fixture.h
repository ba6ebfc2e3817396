// What the tests of this library share: KV in pages, completions to wait for, two connected ends.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/kv_sender.h"
#include "kvplane/transport/stream.h"

namespace kvplane::transfer {

// For waits that must succeed: only a hang reaches it.
constexpr base::Duration kTestPatience = std::chrono::seconds(60);

inline base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }
inline base::TimePoint AfterMs(int milliseconds) { return After(std::chrono::milliseconds(milliseconds)); }

inline tensor::KvGeometry Geometry(uint32_t layers, uint32_t kv_heads, uint32_t head_dim) {
  return {layers, kv_heads, head_dim, tensor::DType::kBf16};
}

inline KvDescriptor Describe(const tensor::KvGeometry& geometry, uint32_t tokens) {
  KvDescriptor descriptor;
  descriptor.geometry = geometry;
  descriptor.tokens = tokens;
  descriptor.model_fingerprint[0] = std::byte{7};
  std::vector<int32_t> ids(tokens);
  for (uint32_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>(i * 31 + 5);
  descriptor.token_hash = HashTokens(ids);
  return descriptor;
}

// A profile of the model that Describe() names.
inline std::shared_ptr<const codec::ModelProfile> ProfileFor(const tensor::KvGeometry& geometry,
                                                             uint64_t seed = 1) {
  codec::ModelProfileData data =
      codec::testing::SyntheticProfile({.geometry = geometry, .seed = seed})->data();
  data.model_fingerprint = Describe(geometry, 1).model_fingerprint;
  return *codec::ModelProfile::Create(std::move(data));
}

// The KV of one request in pages of its own.
class KvPages {
 public:
  KvPages(const tensor::KvGeometry& geometry, uint32_t tokens, uint32_t block_tokens)
      : geometry_(geometry), tokens_(tokens) {
    const auto format = tensor::PageFormat::HeadMajor(geometry, block_tokens);
    const uint32_t pages = (tokens + block_tokens - 1) / block_tokens;
    memory_.resize(size_t{geometry.layers} * pages * format.page_elements);
    addresses_.resize(geometry.layers);
    for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
      // Pages lie in reverse order, so that nothing works by chance.
      for (uint32_t page = 0; page < pages; ++page) {
        const size_t number = size_t{layer} * pages + (pages - 1 - page);
        addresses_[layer].push_back(memory_.data() + number * format.page_elements);
      }
      layers_.push_back({addresses_[layer], format});
    }
  }

  std::span<const tensor::LayerPages> layers() const { return layers_; }

  uint16_t* at(uint32_t layer, tensor::Side side, uint32_t token, uint32_t head) {
    const tensor::LayerPages& pages = layers_[layer];
    return pages.pages[token / pages.format.block_tokens] +
           pages.format.offset(side, token % pages.format.block_tokens, head);
  }

  void FillRandom(uint64_t seed) {
    base::Rng rng(seed);
    for (uint16_t& value : memory_) {
      value = tensor::FloatToBf16(static_cast<float>(rng.Uniform() * 4 - 2));
    }
  }
  void Fill(uint16_t pattern) { std::fill(memory_.begin(), memory_.end(), pattern); }
  bool AllEqual(uint16_t pattern) const {
    return std::all_of(memory_.begin(), memory_.end(), [=](uint16_t value) { return value == pattern; });
  }

  // Number of values of the prompt in which the two differ, whatever their block sizes.
  size_t CountDifferences(KvPages& other) {
    size_t differences = 0;
    for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
      for (const tensor::Side side : tensor::kSides) {
        for (uint32_t token = 0; token < tokens_; ++token) {
          for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
            const uint16_t* mine = at(layer, side, token, head);
            const uint16_t* theirs = other.at(layer, side, token, head);
            for (uint32_t i = 0; i < geometry_.head_dim; ++i) differences += mine[i] != theirs[i] ? 1u : 0u;
          }
        }
      }
    }
    return differences;
  }

 private:
  tensor::KvGeometry geometry_;
  uint32_t tokens_;
  std::vector<uint16_t> memory_;
  std::vector<std::vector<uint16_t*>> addresses_;
  std::vector<tensor::LayerPages> layers_;
};

// Collects callbacks; counts them, so that "exactly once" can be asserted.
class Completion {
 public:
  OnComplete on_complete() {
    return [state = state_](TransferOutcome outcome) {
      base::MutexLock lock(state->mutex);
      ++state->count;
      state->outcome = std::move(outcome);
      state->changed.NotifyAll();
    };
  }
  OnFirstToken on_first_token() {
    return [state = state_](FirstToken token) {
      base::MutexLock lock(state->mutex);
      state->first_before_complete = state->count == 0;
      state->first_token = std::move(token);
      state->changed.NotifyAll();
    };
  }

  TransferOutcome Wait() {
    base::MutexLock lock(state_->mutex);
    const base::TimePoint limit = After(kTestPatience);
    while (state_->count == 0 && state_->changed.WaitUntil(state_->mutex, limit)) {
    }
    if (state_->count == 0) {
      ADD_FAILURE() << "on_complete never came";
      TransferOutcome hang;
      hang.status = base::Internal("hang");
      return hang;
    }
    return state_->outcome;
  }
  void WaitForFirstToken() {
    base::MutexLock lock(state_->mutex);
    const base::TimePoint limit = After(kTestPatience);
    while (!state_->first_token.has_value() && state_->changed.WaitUntil(state_->mutex, limit)) {
    }
  }
  int count() const {
    base::MutexLock lock(state_->mutex);
    return state_->count;
  }
  std::optional<FirstToken> first_token() const {
    base::MutexLock lock(state_->mutex);
    return state_->first_before_complete ? state_->first_token : std::nullopt;
  }

 private:
  struct State {
    base::Mutex mutex;
    base::CondVar changed;
    int count = 0;
    TransferOutcome outcome;
    std::optional<FirstToken> first_token;
    bool first_before_complete = false;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// One offer or pull with its pages. Completion lives as long as the callbacks do.
struct TestTransfer {
  TestTransfer(const tensor::KvGeometry& geometry, uint32_t tokens, uint32_t send_block = 64,
               uint32_t receive_block = 64)
      : descriptor(Describe(geometry, tokens)),
        sent(geometry, tokens, send_block),
        received(geometry, tokens, receive_block) {
    sent.FillRandom(tokens * 977 + geometry.layers);
    received.Fill(0x7fff);
  }

  KvOffer MakeOffer(const std::string& id, std::string_view strategy = "off",
                    base::TimePoint deadline = After(kTestPatience)) {
    KvOffer offer;
    offer.transfer_id = id;
    offer.descriptor = descriptor;
    offer.strategy = *codec::Strategy::Parse(strategy);
    offer.layers = sent.layers();
    offer.deadline = deadline;
    offer.on_complete = sender_done.on_complete();
    return offer;
  }
  KvPull MakePull(const std::string& endpoint, const std::string& id,
                  base::TimePoint deadline = After(kTestPatience)) {
    KvPull pull;
    pull.endpoint = endpoint;
    pull.transfer_id = id;
    pull.descriptor = descriptor;
    pull.layers = received.layers();
    pull.deadline = deadline;
    pull.on_first_token = receiver_done.on_first_token();
    pull.on_complete = receiver_done.on_complete();
    return pull;
  }
  // As an engine posts: all layers of a chunk of tokens, then the next chunk, then the first token.
  void PostAll(SendSession& session, uint32_t chunk_tokens = 1u << 30) {
    for (uint32_t first = 0; first < descriptor.tokens;) {
      const uint32_t tokens = std::min(chunk_tokens, descriptor.tokens - first);
      for (uint32_t layer = 0; layer < descriptor.geometry.layers; ++layer) {
        session.PostLayer(layer, first, tokens);
      }
      first += tokens;
    }
    session.PostFirstToken({42, -0.5f, {{42, -0.5f}, {7, -1.5f}}});
  }

  KvDescriptor descriptor;
  KvPages sent;
  KvPages received;
  Completion sender_done;
  Completion receiver_done;
};

struct Ends {
  Ends(transport::Transport& transport, const char* endpoint, KvSenderOptions send = {},
       KvReceiverOptions receive = {})
      : Ends(transport, transport, endpoint, send, receive) {}
  Ends(transport::Transport& at_sender, transport::Transport& at_receiver, const char* endpoint,
       KvSenderOptions send = {}, KvReceiverOptions receive = {}) {
    send.endpoint = endpoint;
    // Only tests that choose a connect timeout are about it; a loaded machine may take its time.
    if (receive.connect_timeout == KvReceiverOptions().connect_timeout)
      receive.connect_timeout = kTestPatience;
    sender = *KvSender::Create(at_sender, send);
    receiver = *KvReceiver::Create(at_receiver, receive);
  }
  std::unique_ptr<KvSender> sender;
  std::unique_ptr<KvReceiver> receiver;
};

}  // namespace kvplane::transfer
