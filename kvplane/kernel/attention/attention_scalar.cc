#include <cmath>

#include "kvplane/kernel/attention/attention.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;

const uint16_t* Row(const AttentionArgs& args, tensor::Side side, uint32_t position) {
  const tensor::PageFormat& format = args.layer->format;
  return args.layer->pages[position / format.block_tokens] +
         format.offset(side, position % format.block_tokens, args.kv_head);
}

template <bool kBf16>
float Rounded(float x) {
  return kBf16 ? Bf16ToFloat(FloatToBf16(x)) : x;
}

// One query row; `out` [head_dim] f32.
template <bool kBf16>
void AttendRow(const AttentionArgs& args, const float* q, uint32_t position, float* out) {
  const KeyRange keys = VisibleKeys(position, args.window);
  float maximum = -INFINITY;
  float sum = 0;
  for (uint32_t d = 0; d < args.head_dim; ++d) out[d] = 0;
  for (uint32_t tile = keys.begin / kAttentionTile * kAttentionTile; tile < keys.end;
       tile += kAttentionTile) {
    const uint32_t begin = tile < keys.begin ? keys.begin : tile;
    const uint32_t end = keys.end < tile + kAttentionTile ? keys.end : tile + kAttentionTile;
    float scores[kAttentionTile];
    float tile_maximum = -INFINITY;
    for (uint32_t j = begin; j < end; ++j) {
      const uint16_t* k = Row(args, tensor::Side::kKey, j);
      float dot = 0;
      for (uint32_t d = 0; d < args.head_dim; ++d) dot += Rounded<kBf16>(q[d]) * Bf16ToFloat(k[d]);
      scores[j - begin] = dot * args.scale;
      tile_maximum = std::fmax(tile_maximum, scores[j - begin]);
    }
    const float new_maximum = std::fmax(maximum, tile_maximum);
    const float correction = std::exp(maximum - new_maximum);
    maximum = new_maximum;
    sum *= correction;
    for (uint32_t d = 0; d < args.head_dim; ++d) out[d] *= correction;
    for (uint32_t j = begin; j < end; ++j) {
      const uint16_t* v = Row(args, tensor::Side::kValue, j);
      const float p = std::exp(scores[j - begin] - maximum);
      sum += p;
      for (uint32_t d = 0; d < args.head_dim; ++d) out[d] += Rounded<kBf16>(p) * Bf16ToFloat(v[d]);
    }
  }
  for (uint32_t d = 0; d < args.head_dim; ++d) out[d] /= sum;
}

void AttendF32(const AttentionArgs& args, float* out) {
  for (uint32_t t = 0; t < args.tokens; ++t) {
    for (uint32_t g = 0; g < args.group; ++g) {
      const size_t head = size_t{g} * args.head_dim;
      AttendRow<false>(args, args.q + t * args.q_stride + head, args.first_position + t,
                       out + t * args.out_stride + head);
    }
  }
}

void AttendBf16(const AttentionArgs& args, uint16_t* out) {
  float* row = reinterpret_cast<float*>(args.scratch);
  for (uint32_t t = 0; t < args.tokens; ++t) {
    for (uint32_t g = 0; g < args.group; ++g) {
      const size_t head = size_t{g} * args.head_dim;
      AttendRow<true>(args, args.q + t * args.q_stride + head, args.first_position + t, row);
      uint16_t* to = out + t * args.out_stride + head;
      for (uint32_t d = 0; d < args.head_dim; ++d) to[d] = FloatToBf16(row[d]);
    }
  }
}

}  // namespace

const AttentionKernels kAttentionScalar = {AttendF32, AttendBf16};

const AttentionKernels& AttentionKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kAttentionAvx512;
    case Isa::kAvx2:
      return kAttentionAvx2;
    case Isa::kScalar:
      break;
  }
  return kAttentionScalar;
}

}  // namespace kvplane::kernel
