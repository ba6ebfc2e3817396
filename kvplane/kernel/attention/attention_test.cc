#include "kvplane/kernel/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;
using tensor::Side;

struct FreeAligned {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

// One layer of one sequence in pages, random K and V, random q.
class Sequence {
 public:
  Sequence(uint32_t kv_heads, uint32_t group, uint32_t head_dim, uint32_t tokens, uint32_t block_tokens)
      : group_(group), head_dim_(head_dim) {
    const tensor::KvGeometry geometry{1, kv_heads, head_dim, tensor::DType::kBf16};
    layer_.format = tensor::PageFormat::HeadMajor(geometry, block_tokens);
    base::Rng rng(head_dim * 31 + group);
    for (uint32_t t = 0; t < tokens; t += block_tokens) {
      // NaN wherever no token is: reading it as a value would show.
      pages_.emplace_back(layer_.format.page_elements, uint16_t{0x7fff});
    }
    for (auto& page : pages_) pointers_.push_back(page.data());
    layer_.pages = pointers_;
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t h = 0; h < kv_heads; ++h) {
        for (uint32_t d = 0; d < head_dim; ++d) {
          *At(Side::kKey, t, h, d) = FloatToBf16(static_cast<float>(rng.Normal()));
          *At(Side::kValue, t, h, d) = FloatToBf16(static_cast<float>(rng.Normal()));
        }
      }
    }
    q_.resize(size_t{tokens} * kv_heads * group * head_dim);
    for (float& x : q_) x = Bf16ToFloat(FloatToBf16(static_cast<float>(rng.Normal())));
    stride_ = size_t{kv_heads} * group * head_dim;
  }

  uint16_t* At(Side side, uint32_t t, uint32_t h, uint32_t d) const {
    return pointers_[t / layer_.format.block_tokens] +
           layer_.format.offset(side, t % layer_.format.block_tokens, h) + d;
  }

  AttentionArgs Args(uint32_t kv_head, uint32_t first, uint32_t count, uint32_t window) {
    AttentionArgs args;
    args.q = q_.data() + first * stride_ + size_t{kv_head} * group_ * head_dim_;
    args.q_stride = stride_;
    args.layer = &layer_;
    args.kv_head = kv_head;
    args.group = group_;
    args.head_dim = head_dim_;
    args.tokens = count;
    args.first_position = first;
    args.window = window;
    args.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    args.out_stride = size_t{group_} * head_dim_;
    const size_t bytes = AttentionScratchBytes(head_dim_, count * group_);
    scratch_.reset(new (std::align_val_t{64}) std::byte[bytes]);
    std::memset(scratch_.get(), 0xff, bytes);
    args.scratch = scratch_.get();
    return args;
  }

  // out: [count, group, head_dim], computed in pieces of `chunk` tokens.
  template <typename Out>
  std::vector<Out> Run(void (*kernel)(const AttentionArgs&, Out*), uint32_t kv_head, uint32_t first,
                       uint32_t count, uint32_t chunk, uint32_t window) {
    std::vector<Out> out(size_t{count} * group_ * head_dim_);
    for (uint32_t t = 0; t < count; t += chunk) {
      kernel(Args(kv_head, first + t, std::min(chunk, count - t), window),
             out.data() + size_t{t} * group_ * head_dim_);
    }
    return out;
  }

  // The definition, in double.
  std::vector<double> Reference(uint32_t kv_head, uint32_t first, uint32_t count, uint32_t window) const {
    std::vector<double> out;
    for (uint32_t t = first; t < first + count; ++t) {
      for (uint32_t g = 0; g < group_; ++g) {
        const float* q = q_.data() + t * stride_ + (size_t{kv_head} * group_ + g) * head_dim_;
        const uint32_t begin = window == 0 || t + 1 < window ? 0 : t + 1 - window;
        std::vector<double> row(head_dim_);
        double sum = 0;
        for (uint32_t j = begin; j <= t; ++j) {
          double dot = 0;
          for (uint32_t d = 0; d < head_dim_; ++d) {
            dot += double{q[d]} * double{Bf16ToFloat(*At(Side::kKey, j, kv_head, d))};
          }
          const double p = std::exp(dot / std::sqrt(static_cast<double>(head_dim_)));
          sum += p;
          for (uint32_t d = 0; d < head_dim_; ++d) {
            row[d] += p * double{Bf16ToFloat(*At(Side::kValue, j, kv_head, d))};
          }
        }
        for (const double x : row) out.push_back(x / sum);
      }
    }
    return out;
  }

 private:
  uint32_t group_;
  uint32_t head_dim_;
  size_t stride_ = 0;
  tensor::LayerPages layer_;
  std::vector<std::vector<uint16_t>> pages_;
  std::vector<uint16_t*> pointers_;
  std::vector<float> q_;
  std::unique_ptr<std::byte[], FreeAligned> scratch_;
};

double MaxError(const std::vector<double>& expected, const std::vector<float>& actual) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(expected[i] - double{actual[i]});
    if (!(error <= worst)) worst = error;  // keeps NaN
  }
  return worst;
}

std::vector<float> Widened(const std::vector<uint16_t>& values) {
  std::vector<float> out;
  for (const uint16_t x : values) out.push_back(Bf16ToFloat(x));
  return out;
}

struct Shape {
  uint32_t kv_heads, group, head_dim, tokens, block_tokens, window;
};

const Shape kShapes[] = {
    {2, 2, 64, 200, 16, 0},  {1, 1, 8, 70, 16, 0},    {1, 7, 128, 150, 64, 0},  {2, 4, 80, 131, 7, 0},
    {1, 3, 24, 129, 32, 0},  {1, 5, 40, 300, 16, 50}, {2, 2, 64, 300, 128, 64}, {1, 2, 256, 66, 16, 1},
    {1, 8, 96, 100, 16, 17}, {1, 1, 16, 1, 16, 0},
};

TEST(AttentionDiff, EveryIsaAgreesWithTheDefinition) {
  for (const Shape& shape : kShapes) {
    Sequence sequence(shape.kv_heads, shape.group, shape.head_dim, shape.tokens, shape.block_tokens);
    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
      const auto expected = sequence.Reference(head, 0, shape.tokens, shape.window);
      for (const Isa isa : AvailableIsas()) {
        SCOPED_TRACE(testing::Message() << Name(isa) << " head_dim " << shape.head_dim << " group "
                                        << shape.group << " window " << shape.window);
        const AttentionKernels& kernels = AttentionKernelsFor(isa);
        const auto f32 = sequence.Run(kernels.f32, head, 0, shape.tokens, shape.tokens, shape.window);
        EXPECT_LT(MaxError(expected, f32), 5e-6);
        const auto bf16 = sequence.Run(kernels.bf16, head, 0, shape.tokens, shape.tokens, shape.window);
        // Two roundings to 8 bits of values up to about 4.
        EXPECT_LT(MaxError(expected, Widened(bf16)), 2.5e-2);
      }
    }
  }
}

TEST(AttentionProperty, ChunkingNeverChangesABit) {
  for (const Shape& shape : kShapes) {
    Sequence sequence(shape.kv_heads, shape.group, shape.head_dim, shape.tokens, shape.block_tokens);
    for (const Isa isa : AvailableIsas()) {
      const AttentionKernels& kernels = AttentionKernelsFor(isa);
      const auto f32 = sequence.Run(kernels.f32, 0, 0, shape.tokens, shape.tokens, shape.window);
      const auto bf16 = sequence.Run(kernels.bf16, 0, 0, shape.tokens, shape.tokens, shape.window);
      for (const uint32_t chunk : {1u, 3u, 37u, 64u, 100u}) {
        SCOPED_TRACE(testing::Message() << Name(isa) << " head_dim " << shape.head_dim << " chunk " << chunk);
        const auto f32_chunked = sequence.Run(kernels.f32, 0, 0, shape.tokens, chunk, shape.window);
        EXPECT_EQ(0, std::memcmp(f32.data(), f32_chunked.data(), f32.size() * sizeof(float)));
        EXPECT_EQ(bf16, sequence.Run(kernels.bf16, 0, 0, shape.tokens, chunk, shape.window));
      }
    }
  }
}

TEST(AttentionUnit, OneKeyGivesItsValue) {
  Sequence sequence(1, 1, 8, 1, 16);
  for (const Isa isa : AvailableIsas()) {
    const auto out = sequence.Run(AttentionKernelsFor(isa).f32, 0, 0, 1, 1, 0);
    for (uint32_t d = 0; d < 8; ++d) EXPECT_EQ(out[d], Bf16ToFloat(*sequence.At(Side::kValue, 0, 0, d)));
  }
}

TEST(AttentionUnit, VisibleKeysRespectTheWindow) {
  EXPECT_EQ(VisibleKeys(9, 0).begin, 0u);
  EXPECT_EQ(VisibleKeys(9, 0).end, 10u);
  EXPECT_EQ(VisibleKeys(9, 4).begin, 6u);
  EXPECT_EQ(VisibleKeys(2, 4).begin, 0u);
}

}  // namespace
}  // namespace kvplane::kernel
