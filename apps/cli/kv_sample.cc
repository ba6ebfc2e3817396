#include "apps/cli/kv_sample.h"

#include <algorithm>
#include <cmath>

#include "kvplane/base/rng.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kBlockTokens = 16;  // the engine's default
constexpr uint32_t kSinkTokens = 4;

// What one channel of one head looks like.
struct Channel {
  float deviation;
  float mean;
};

std::vector<Channel> MakeChannels(uint32_t count, bool outliers, base::Rng& rng) {
  std::vector<Channel> channels(count);
  for (Channel& channel : channels) {
    channel.deviation = static_cast<float>(std::exp(0.6 * rng.Normal()));
    channel.mean = static_cast<float>(0.3 * rng.Normal()) * channel.deviation;
  }
  const uint64_t marked = outliers ? rng.Below(5) : 0;
  for (uint64_t i = 0; i < marked; ++i) {
    Channel& channel = channels[rng.Below(count)];
    const double sign = rng.Below(2) == 0 ? 1 : -1;
    channel.mean = static_cast<float>(sign * (8 + 7 * rng.Uniform())) * channel.deviation;
  }
  return channels;
}

}  // namespace

PagedKv::PagedKv(const tensor::KvGeometry& geometry, uint32_t tokens)
    : geometry_(geometry), tokens_(tokens), format_(tensor::PageFormat::HeadMajor(geometry, kBlockTokens)) {
  const uint32_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  memory_.resize(size_t{geometry.layers} * blocks * format_.page_elements);
  for (uint32_t i = 0; i < geometry.layers; ++i) {
    std::vector<uint16_t*>& pages = pages_.emplace_back();
    for (uint32_t b = 0; b < blocks; ++b) {
      pages.push_back(memory_.data() + (size_t{i} * blocks + b) * format_.page_elements);
    }
  }
}

tensor::LayerPages PagedKv::layer(uint32_t index) const { return {pages_[index], format_}; }

PagedKv PagedKv::Copy(RawKv& kv) {
  PagedKv paged(kv.geometry, kv.tokens);
  for (uint32_t i = 0; i < kv.geometry.layers; ++i) {
    uint16_t* page = kv.layer_page(i);
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t t = 0; t < kv.tokens; ++t) {
        for (uint32_t h = 0; h < kv.geometry.kv_heads; ++h) {
          std::copy_n(page + kv.page_format().offset(side, t, h), kv.geometry.head_dim,
                      paged.pages_[i][t / kBlockTokens] + paged.format_.offset(side, t % kBlockTokens, h));
        }
      }
    }
  }
  return paged;
}

PagedKv SyntheticKv(const tensor::KvGeometry& geometry, uint32_t tokens, uint64_t seed) {
  base::Rng rng(seed);
  PagedKv kv(geometry, tokens);
  const tensor::LayerPages first = kv.layer(0);
  for (const tensor::Side side : tensor::kSides) {
    for (uint32_t h = 0; h < geometry.kv_heads; ++h) {
      const auto channels = MakeChannels(geometry.head_dim, side == tensor::Side::kKey, rng);
      for (uint32_t t = 0; t < tokens; ++t) {
        const double gain = t < kSinkTokens ? 0.1 : std::exp(0.25 * rng.Normal());
        uint16_t* row = first.pages[t / kBlockTokens] + first.format.offset(side, t % kBlockTokens, h);
        for (uint32_t c = 0; c < geometry.head_dim; ++c) {
          const float noise = static_cast<float>(gain * rng.Normal()) * channels[c].deviation;
          row[c] = tensor::FloatToBf16(noise + channels[c].mean);
        }
      }
    }
  }
  const size_t layer_elements = kv.memory().size() / geometry.layers;
  for (uint32_t i = 1; i < geometry.layers; ++i) {
    std::copy_n(kv.memory().begin(), layer_elements,
                kv.memory().begin() + static_cast<ptrdiff_t>(i * layer_elements));
  }
  return kv;
}

}  // namespace kvplane::cli
