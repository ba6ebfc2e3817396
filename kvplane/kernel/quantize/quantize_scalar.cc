#include <algorithm>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/quantize/affine_definition.h"

namespace kvplane::kernel::internal {
namespace {

// Channels worked on at a time: bounds the code buffer on the stack; a multiple of 8 keeps rows byte-aligned.
constexpr uint32_t kStrip = 64;

struct MinMax {
  uint16_t low = 0xffff;  // ordered keys
  uint16_t high = 0;
  void Add(uint16_t x) {
    const uint16_t key = OrderedKey(x);
    low = std::min(low, key);
    high = std::max(high, key);
  }
  bool codable() const { return Codable(OrderedValue(low)) && Codable(OrderedValue(high)); }
};

uint16_t LoadParam(const std::byte* plane, size_t index) {
  return base::LoadLe<uint16_t>(plane + index * sizeof(uint16_t));
}
void StoreParam(std::byte* plane, size_t index, uint16_t value) {
  base::StoreLe(plane + index * sizeof(uint16_t), value);
}

// Codes values [begin, begin + count) of a row with one zero and scale; count <= kStrip.
template <uint32_t kBits>
void EncodeRun(const uint16_t* values, uint32_t count, uint16_t zero, uint16_t scale, Levels levels,
               std::byte* out) {
  uint8_t codes[kStrip];
  for (uint32_t i = 0; i < count; ++i) {
    codes[i] = CodeOf(values[i], tensor::Bf16ToFloat(zero), InverseOf(scale), levels);
  }
  PackRow(codes, count, kBits, out);
}

template <uint32_t kBits>
void DecodeRun(const std::byte* in, uint32_t count, uint16_t zero, uint16_t scale, uint16_t* values) {
  uint8_t codes[kStrip];
  UnpackRow(in, count, kBits, codes);
  for (uint32_t i = 0; i < count; ++i) {
    values[i] = ValueOf(codes[i], tensor::Bf16ToFloat(zero), tensor::Bf16ToFloat(scale));
  }
}

template <uint32_t kBits>
bool EncodeChannels(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t top,
                    size_t /*ahead*/, std::byte* zeros, std::byte* scales, std::byte* codes) {
  return EncodeChannelsFrom<kBits>(0, rows, tokens, channels, Levels(top), zeros, scales, codes);
}

template <uint32_t kBits>
void DecodeChannels(const std::byte* zeros, const std::byte* scales, const std::byte* codes, uint32_t tokens,
                    uint32_t channels, bool /*streaming_stores*/, uint16_t* const* rows) {
  DecodeChannelsFrom<kBits>(0, zeros, scales, codes, tokens, channels, rows);
}

template <uint32_t kBits>
bool EncodeTokens(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t group,
                  uint32_t top, size_t /*ahead*/, std::byte* zeros, std::byte* scales, std::byte* codes) {
  const Levels levels(top);
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  size_t param = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; c += group, ++param) {
      const uint32_t end = std::min(c + group, channels);
      MinMax range;
      for (uint32_t i = c; i < end; ++i) range.Add(rows[t][i]);
      if (!range.codable()) return false;
      const uint16_t zero = OrderedValue(range.low);
      const uint16_t scale = ScaleOf(zero, OrderedValue(range.high), levels);
      StoreParam(zeros, param, zero);
      StoreParam(scales, param, scale);
      for (uint32_t i = c; i < end; i += kStrip) {
        EncodeRun<kBits>(rows[t] + i, std::min(kStrip, end - i), zero, scale, levels,
                         codes + t * row_bytes + i * kBits / 8);
      }
    }
  }
  return true;
}

template <uint32_t kBits>
void DecodeTokens(const std::byte* zeros, const std::byte* scales, const std::byte* codes, uint32_t tokens,
                  uint32_t channels, uint32_t group, bool /*streaming_stores*/, uint16_t* const* rows) {
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  size_t param = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; c += group, ++param) {
      const uint32_t end = std::min(c + group, channels);
      for (uint32_t i = c; i < end; i += kStrip) {
        DecodeRun<kBits>(codes + t * row_bytes + i * kBits / 8, std::min(kStrip, end - i),
                         LoadParam(zeros, param), LoadParam(scales, param), rows[t] + i);
      }
    }
  }
}

bool EncodeTensor(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t top,
                  std::byte* zero_out, std::byte* scale_out, std::byte* codes) {
  const Levels levels(top);
  MinMax range;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; ++c) range.Add(rows[t][c]);
  }
  if (!range.codable()) return false;
  const uint16_t zero = OrderedValue(range.low);
  const uint16_t scale = ScaleOf(zero, OrderedValue(range.high), levels);
  StoreParam(zero_out, 0, zero);
  StoreParam(scale_out, 0, scale);
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; c += kStrip) {
      EncodeRun<8>(rows[t] + c, std::min(kStrip, channels - c), zero, scale, levels, codes);
      codes += std::min(kStrip, channels - c);
    }
  }
  return true;
}

bool ParamsValid(const std::byte* zeros, const std::byte* scales, size_t count, uint16_t scale_limit) {
  for (size_t i = 0; i < count; ++i) {
    if (!Codable(LoadParam(zeros, i)) || LoadParam(scales, i) > scale_limit) return false;
  }
  return true;
}

}  // namespace

template <uint32_t kBits>
bool EncodeChannelsFrom(uint32_t first, const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                        Levels levels, std::byte* zeros, std::byte* scales, std::byte* codes) {
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t c = first; c < channels; ++c) {
    MinMax range;
    for (uint32_t t = 0; t < tokens; ++t) range.Add(rows[t][c]);
    if (!range.codable()) return false;
    const uint16_t zero = OrderedValue(range.low);
    StoreParam(zeros, c, zero);
    StoreParam(scales, c, ScaleOf(zero, OrderedValue(range.high), levels));
  }
  for (uint32_t strip = first; strip < channels; strip += kStrip) {
    const uint32_t count = std::min(kStrip, channels - strip);
    for (uint32_t t = 0; t < tokens; ++t) {
      uint8_t row[kStrip];
      for (uint32_t i = 0; i < count; ++i) {
        row[i] = CodeOf(rows[t][strip + i], tensor::Bf16ToFloat(LoadParam(zeros, strip + i)),
                        InverseOf(LoadParam(scales, strip + i)), levels);
      }
      PackRow(row, count, kBits, codes + t * row_bytes + strip * kBits / 8);
    }
  }
  return true;
}

template <uint32_t kBits>
void DecodeChannelsFrom(uint32_t first, const std::byte* zeros, const std::byte* scales,
                        const std::byte* codes, uint32_t tokens, uint32_t channels, uint16_t* const* rows) {
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t strip = first; strip < channels; strip += kStrip) {
    const uint32_t count = std::min(kStrip, channels - strip);
    for (uint32_t t = 0; t < tokens; ++t) {
      uint8_t row[kStrip];
      UnpackRow(codes + t * row_bytes + strip * kBits / 8, count, kBits, row);
      for (uint32_t i = 0; i < count; ++i) {
        rows[t][strip + i] = ValueOf(row[i], tensor::Bf16ToFloat(LoadParam(zeros, strip + i)),
                                     tensor::Bf16ToFloat(LoadParam(scales, strip + i)));
      }
    }
  }
}

#define KVPLANE_INSTANTIATE(bits)                                                                        \
  template bool EncodeChannelsFrom<bits>(uint32_t, const uint16_t* const*, uint32_t, uint32_t, Levels,   \
                                         std::byte*, std::byte*, std::byte*);                            \
  template void DecodeChannelsFrom<bits>(uint32_t, const std::byte*, const std::byte*, const std::byte*, \
                                         uint32_t, uint32_t, uint16_t* const*);
KVPLANE_INSTANTIATE(2)
KVPLANE_INSTANTIATE(4)
KVPLANE_INSTANTIATE(8)
#undef KVPLANE_INSTANTIATE

const QuantizeKernels kQuantizeScalar = {
    {EncodeChannels<2>, EncodeChannels<4>, EncodeChannels<8>},
    {EncodeTokens<2>, EncodeTokens<4>, EncodeTokens<8>},
    {DecodeChannels<2>, DecodeChannels<4>, DecodeChannels<8>},
    {DecodeTokens<2>, DecodeTokens<4>, DecodeTokens<8>},
    EncodeTensor,
    ParamsValid,
};

}  // namespace kvplane::kernel::internal
