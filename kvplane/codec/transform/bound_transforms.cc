#include "kvplane/codec/transform/bound_transforms.h"

#include <array>

#include "kvplane/base/rng.h"
#include "kvplane/kernel/hadamard/hadamard.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

// Elements from one token to the next in the contiguous tile of the transform.
size_t TokenStride(const TileShape& shape) { return size_t{shape.heads} * shape.head_dim; }

class FrameTransform final : public TileTransform {
 public:
  explicit FrameTransform(TileGeometry geometry) : geometry_(std::move(geometry)) {}

  TileShape CodedShape(const TileShape& shape) const override { return shape; }
  size_t SideBytes(const TileShape& shape) const override { return geometry_.SideBytes(shape); }

  bool Forward(const TileContext& context, const tensor::ConstTileView& in, Workspace&, std::byte* side,
               uint16_t* out) const override {
    const size_t stride = TokenStride(ShapeOf(in));
    return geometry_.Forward(context, in, side, [&](uint32_t head, const auto& rows, const auto& frame) {
      kernel::RowFrames().Remove(rows.data(), rows.tokens(), rows.head_dim(), frame,
                                 out + size_t{head} * rows.head_dim(), stride);
    });
  }
  base::Status Inverse(const TileContext& context, const std::byte* side, const uint16_t* coded, Workspace&,
                       const tensor::TileView& out) const override {
    const size_t stride = TokenStride(ShapeOf(out));
    return geometry_.Inverse(context, side, out, [&](uint32_t head, const auto& rows, const auto& frame) {
      kernel::RowFrames().Restore(coded + size_t{head} * rows.head_dim(), stride, rows.tokens(),
                                  rows.head_dim(), frame, rows.data());
    });
  }

 private:
  TileGeometry geometry_;
};

class HadamardTransform final : public TileTransform {
 public:
  HadamardTransform(TileGeometry geometry, uint32_t seed) : geometry_(std::move(geometry)), seed_(seed) {}

  TileShape CodedShape(const TileShape& shape) const override { return shape; }
  size_t SideBytes(const TileShape& shape) const override { return geometry_.SideBytes(shape); }

  bool Forward(const TileContext& context, const tensor::ConstTileView& in, Workspace&, std::byte* side,
               uint16_t* out) const override {
    const size_t stride = TokenStride(ShapeOf(in));
    const kernel::HadamardPlan plan(in.head_dim);
    return geometry_.Forward(context, in, side, [&](uint32_t head, const auto& rows, const auto& frame) {
      alignas(64) Gains gains;
      MakeGains(plan, context, head, gains);
      kernel::Hadamard().Forward(plan, rows.data(), rows.tokens(), frame, gains.data(),
                                 out + size_t{head} * rows.head_dim(), stride);
    });
  }
  base::Status Inverse(const TileContext& context, const std::byte* side, const uint16_t* coded, Workspace&,
                       const tensor::TileView& out) const override {
    const size_t stride = TokenStride(ShapeOf(out));
    const kernel::HadamardPlan plan(out.head_dim);
    return geometry_.Inverse(context, side, out, [&](uint32_t head, const auto& rows, const auto& frame) {
      alignas(64) Gains gains;
      MakeGains(plan, context, head, gains);
      kernel::Hadamard().Inverse(plan, coded + size_t{head} * rows.head_dim(), stride, rows.tokens(), frame,
                                 gains.data(), rows.data());
    });
  }

 private:
  using Gains = std::array<float, kMaxTileHeadDim>;

  // Signs are bits of the generator, from the lowest of its first word on; 1 is minus (spec.md).
  void MakeGains(const kernel::HadamardPlan& plan, const TileContext& context, uint32_t head,
                 Gains& gains) const {
    const uint64_t kv_head = uint64_t{context.first_head} + head;
    base::Rng rng(seed_ | uint64_t{context.layer} << 16 | kv_head << 40);
    uint64_t signs = 0;
    for (const kernel::HadamardSegment& segment : plan.segments()) {
      for (uint32_t c = segment.first; c < segment.first + segment.order(); ++c, signs >>= 1) {
        if (c % 64 == 0) signs = rng.Next();
        gains[c] = (signs & 1u) != 0 ? -segment.gain : segment.gain;
      }
    }
  }

  TileGeometry geometry_;
  uint64_t seed_;
};

class DeltaTransform final : public TileTransform {
 public:
  DeltaTransform(TileGeometry geometry, uint32_t group) : geometry_(std::move(geometry)), group_(group) {}

  TileShape CodedShape(const TileShape& shape) const override { return shape; }
  size_t SideBytes(const TileShape& shape) const override { return geometry_.SideBytes(shape); }

  bool Forward(const TileContext& context, const tensor::ConstTileView& in, Workspace&, std::byte* side,
               uint16_t* out) const override {
    const size_t stride = TokenStride(ShapeOf(in));
    const kernel::RowFrameKernels kernels = kernel::RowFrames();
    return geometry_.Forward(context, in, side, [&](uint32_t head, const auto& rows, const auto& frame) {
      const uint32_t dim = rows.head_dim();
      for (uint32_t t = 0; t < rows.tokens(); t += group_) {
        uint16_t* to = out + t * stride + size_t{head} * dim;
        kernels.Remove(rows.data() + t, 1, dim, frame.From(t), to, stride);
        alignas(64) Base base;
        const uint32_t others = std::min(group_, rows.tokens() - t) - 1;
        kernels.Remove(rows.data() + t + 1, others, dim, Rebased(frame.From(t + 1), to, dim, base),
                       to + stride, stride);
      }
    });
  }
  base::Status Inverse(const TileContext& context, const std::byte* side, const uint16_t* coded, Workspace&,
                       const tensor::TileView& out) const override {
    const size_t stride = TokenStride(ShapeOf(out));
    const kernel::RowFrameKernels kernels = kernel::RowFrames();
    return geometry_.Inverse(context, side, out, [&](uint32_t head, const auto& rows, auto frame) {
      const uint32_t dim = rows.head_dim();
      frame.streaming_stores = false;  // so few rows a call would be a wait each
      for (uint32_t t = 0; t < rows.tokens(); t += group_) {
        const uint16_t* from = coded + t * stride + size_t{head} * dim;
        kernels.Restore(from, stride, 1, dim, frame.From(t), rows.data() + t);
        alignas(64) Base base;
        const uint32_t others = std::min(group_, rows.tokens() - t) - 1;
        kernels.Restore(from + stride, stride, others, dim, Rebased(frame.From(t + 1), from, dim, base),
                        rows.data() + t + 1);
      }
    });
  }

 private:
  using Base = std::array<float, kMaxTileHeadDim>;

  // The frame with mean + anchor for its mean. The anchor is the one that was rounded to bf16, as the decoder
  // has it but for the quantiser: its rounding does not enter the differences.
  static kernel::RowFrame Rebased(kernel::RowFrame frame, const uint16_t* anchor, uint32_t dim, Base& base) {
    for (uint32_t c = 0; c < dim; ++c) {
      const float value = tensor::Bf16ToFloat(anchor[c]);
      base[c] = frame.mean == nullptr ? value : frame.mean[c] + value;
    }
    frame.mean = base.data();
    return frame;
  }

  TileGeometry geometry_;
  uint32_t group_;
};

}  // namespace

std::unique_ptr<TileTransform> MakeFrameTransform(TileGeometry geometry) {
  return std::make_unique<FrameTransform>(std::move(geometry));
}

std::unique_ptr<TileTransform> MakeHadamardTransform(TileGeometry geometry, uint32_t seed) {
  return std::make_unique<HadamardTransform>(std::move(geometry), seed);
}

std::unique_ptr<TileTransform> MakeDeltaTransform(TileGeometry geometry, uint32_t group) {
  return std::make_unique<DeltaTransform>(std::move(geometry), group);
}

}  // namespace kvplane::codec
