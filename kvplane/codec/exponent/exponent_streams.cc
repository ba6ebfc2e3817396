#include "kvplane/codec/exponent/exponent_streams.h"

#include <algorithm>
#include <array>

#include "kvplane/base/endian.h"
#include "kvplane/codec/page_stores.h"
#include "kvplane/codec/rans/stream_code.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/exponent/exponent.h"
#include "kvplane/kernel/rans/rans_symbols.h"

namespace kvplane::codec {
namespace {

using Counts = std::array<uint32_t, kernel::kRansMaxAlphabet>;

// One symbol is left for the escape.
constexpr uint32_t kMaxWidth = kernel::kRansMaxAlphabet - 1;
// An exponent rarer than this costs less as an escape (a byte, and the escape symbol's bits) than the 1/128
// that a symbol of its own takes from the others: 9.4 p < 1.44 / 128.
constexpr uint32_t kRare = 840;
// Windows are chosen by every eighth token: an exponent that is missed is coded all the same.
constexpr uint32_t kSampleStep = 8;

// Where the parts of a payload lie: width, bases, length of the codes, rests, codes, escapes.
struct Layout {
  explicit Layout(const TileShape& shape)
      : heads(shape.heads), head_values(size_t{shape.tokens} * shape.head_dim) {}

  size_t base(size_t head) const { return 1 + head; }
  size_t code_length() const { return base(heads); }
  size_t rests(size_t head) const { return code_length() + sizeof(uint32_t) + head * head_values; }
  size_t codes() const { return rests(heads); }

  size_t heads;
  size_t head_values;
};

// All heads have windows of one width, so that they can share tables; each window ends at its head's largest
// exponent that is not rare.
struct Windows {
  uint8_t width = 1;
  std::array<uint8_t, kMaxTileHeads> base{};  // [heads]
};

// How often the 31 exponents up to the sample's largest occur.
struct HeadSample {
  uint8_t first = 0;  // the exponent that counts[0] is of
  uint32_t top = 0;   // the last index that is not rare
  Counts counts{};
};

HeadSample SampleHead(const tensor::ConstTileView& in, uint32_t head, std::span<std::byte> scratch) {
  const kernel::ExponentKernels& kernels = kernel::Exponent();
  const TileRows<const uint16_t> rows(in, head);
  std::array<const uint16_t*, tensor::kTileTokens> sampled;
  uint32_t tokens = 0;
  for (uint32_t t = 0; t < rows.tokens(); t += kSampleStep) sampled[tokens++] = rows.data()[t];
  const uint32_t values = tokens * rows.head_dim();
  const uint8_t largest = kernels.largest_exponent(sampled.data(), tokens, rows.head_dim());
  HeadSample sample;
  sample.first = static_cast<uint8_t>(std::max<uint32_t>(largest + 1, kMaxWidth) - kMaxWidth);
  auto* const codes = reinterpret_cast<uint8_t*>(scratch.data());
  kernels.encode_wide(sampled.data(), tokens, rows.head_dim(), sample.first, kMaxWidth, &scratch[values],
                      codes, &scratch[2 * size_t{values}], values);
  kernel::RansSymbols().count(codes, values, kernel::kRansMaxAlphabet, sample.counts.data());
  for (uint32_t i = 0; i < kMaxWidth; ++i) {
    if (uint64_t{sample.counts[i]} * kRare >= values) sample.top = i;
  }
  return sample;
}

Windows ChooseWindows(const tensor::ConstTileView& in, Workspace& workspace) {
  const uint32_t sampled_tokens = (in.tokens + kSampleStep - 1) / kSampleStep;
  const std::span<std::byte> scratch =
      workspace.Scratch(3 * size_t{sampled_tokens} * in.head_dim, Workspace::Use::kStreams);
  Windows windows;
  std::array<uint64_t, kMaxWidth> below{};  // by distance from the top
  uint64_t total = 0;
  for (uint32_t head = 0; head < in.heads; ++head) {
    const HeadSample sample = SampleHead(in, head, scratch);
    for (uint32_t i = 0; i <= sample.top; ++i) below[sample.top - i] += sample.counts[i];
    total += size_t{sampled_tokens} * in.head_dim;
    windows.base[head] = static_cast<uint8_t>(sample.first + sample.top);
  }
  for (uint32_t i = 0; i < kMaxWidth; ++i) {
    if (below[i] * kRare >= total) windows.width = static_cast<uint8_t>(i + 1);
  }
  for (uint32_t head = 0; head < in.heads; ++head) {
    const uint32_t end = std::max<uint32_t>(windows.base[head] + 1, windows.width);
    windows.base[head] = static_cast<uint8_t>(end - windows.width);
  }
  return windows;
}

struct CodePlane {
  CodePlane(const TileShape& shape, uint32_t width) {
    std::fill_n(alphabets.begin(), shape.heads, width + 1);
    plane = {shape, std::span(alphabets).first(shape.heads)};
  }
  CodePlane(const CodePlane&) = delete;

  std::array<uint32_t, kMaxTileHeads> alphabets;
  SymbolPlane plane;
};

uint8_t* CodesOf(const TileShape& shape, Workspace& workspace) {
  return reinterpret_cast<uint8_t*>(workspace.Scratch(shape.values(), Workspace::Use::kSymbols).data());
}

size_t EncodeTile(const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out) {
  const TileShape shape = ShapeOf(in);
  const Layout layout(shape);
  const Windows windows = ChooseWindows(in, workspace);
  uint8_t* const codes = CodesOf(shape, workspace);
  // More escapes than this and raw is smaller.
  const std::span<std::byte> escapes = workspace.Scratch(shape.values() / 2 + 1, Workspace::Use::kCoder);
  out[0] = static_cast<std::byte>(windows.width);
  size_t escaped = 0;
  for (uint32_t head = 0; head < shape.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    out[layout.base(head)] = static_cast<std::byte>(windows.base[head]);
    const size_t count = kernel::Exponent().encode_wide(
        rows.data(), rows.tokens(), rows.head_dim(), windows.base[head], windows.width,
        &out[layout.rests(head)], codes + head * layout.head_values, escapes.data() + escaped,
        escapes.size() - escaped);
    if (count == kernel::kNoEscapeRoom) return 0;
    escaped += count;
  }
  if (escaped >= out.size() - layout.codes()) return 0;
  const CodePlane code(shape, windows.width);
  const size_t room = out.size() - layout.codes() - escaped;
  const size_t coded = StreamCode().Encode(code.plane, codes, workspace, out.subspan(layout.codes(), room));
  if (coded == 0) return 0;
  base::StoreLe(&out[layout.code_length()], static_cast<uint32_t>(coded));
  std::copy_n(escapes.begin(), escaped, out.begin() + static_cast<ptrdiff_t>(layout.codes() + coded));
  return layout.codes() + coded + escaped;
}

base::Status DecodeTile(std::span<const std::byte> in, Workspace& workspace, const tensor::TileView& out) {
  const TileShape shape = ShapeOf(out);
  const Layout layout(shape);
  if (in.size() < layout.codes()) {
    return base::Corrupt("exponent: payload of {} bytes, its shape makes {} or more", in.size(),
                         layout.codes());
  }
  const auto width = static_cast<uint8_t>(in[0]);
  if (width < 1 || width > kMaxWidth) return base::Corrupt("exponent: a window of {}", width);
  for (uint32_t head = 0; head < shape.heads; ++head) {
    if (static_cast<uint32_t>(in[layout.base(head)]) + width > kernel::kExponents) {
      return base::Corrupt("exponent: a window of {} from {} on", width,
                           static_cast<uint32_t>(in[layout.base(head)]));
    }
  }
  const size_t coded = base::LoadLe<uint32_t>(&in[layout.code_length()]);
  if (coded > in.size() - layout.codes()) {
    return base::Corrupt("exponent: {} bytes of codes in {}", coded, in.size() - layout.codes());
  }
  const std::span<const std::byte> escapes = in.subspan(layout.codes() + coded);
  uint8_t* const codes = CodesOf(shape, workspace);
  const CodePlane code(shape, width);
  KVPLANE_RETURN_IF_ERROR(
      StreamCode().Decode(code.plane, in.subspan(layout.codes(), coded), workspace, codes));
  // Nothing stands before this stage: it decodes into pages.
  const bool streaming_stores = out.values() * sizeof(uint16_t) >= kStreamingBytes;
  size_t taken = 0;
  for (uint32_t head = 0; head < shape.heads; ++head) {
    const TileRows<uint16_t> rows(out, head);
    const size_t count = kernel::Exponent().decode_wide(
        &in[layout.rests(head)], codes + head * layout.head_values, escapes.data() + taken,
        escapes.size() - taken, static_cast<uint8_t>(in[layout.base(head)]), width, rows.tokens(),
        rows.head_dim(), streaming_stores, rows.data());
    if (count == kernel::kNoEscapeRoom) return base::Corrupt("exponent: an escape is missing");
    taken += count;
  }
  if (taken != escapes.size()) {
    return base::Corrupt("exponent: {} escapes for {} escape codes", escapes.size(), taken);
  }
  return base::Status::Ok();
}

class ExponentStreamCoder final : public TileCoder {
 public:
  size_t LeastBytes(const TileShape& shape) const override {
    return Layout(shape).codes() + StreamCode().LeastBytes(shape);
  }
  size_t Encode(const TileContext&, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const override {
    return LeastBytes(ShapeOf(in)) >= out.size() ? 0 : EncodeTile(in, workspace, out);
  }
  base::Status Decode(const TileContext&, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const override {
    return DecodeTile(in, workspace, out);
  }
};

}  // namespace

std::unique_ptr<TileCoder> MakeExponentStreamCoder() { return std::make_unique<ExponentStreamCoder>(); }

}  // namespace kvplane::codec
