#include "kvplane/codec/select/protect_stage.h"

#include <algorithm>

#include "kvplane/codec/store/store_stage.h"

namespace kvplane::codec {
namespace {

base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

}  // namespace

constinit const StageFunctions kProtectFunctions = {Validate, nullptr, nullptr, nullptr};

ProtectedRows ProtectedRowsOf(const StageCall& call, uint32_t tokens, const TileContext& context) {
  const uint32_t sinks = call.params[0];
  const uint32_t recent = call.params[1];
  const uint64_t first = context.first_position;
  const uint64_t front = first < sinks ? std::min<uint64_t>(sinks - first, tokens) : 0;
  uint64_t back = 0;
  if (context.end_position > 0) {
    const uint64_t recent_from = context.end_position > recent ? context.end_position - recent : 0;
    if (first + tokens > recent_from) back = std::min<uint64_t>(first + tokens - recent_from, tokens);
  }
  back = std::min<uint64_t>(back, tokens - front);
  return {static_cast<uint8_t>(front), static_cast<uint8_t>(back)};
}

size_t WriteProtected(const ProtectedRows& rows, const tensor::ConstTileView& in, std::span<std::byte> out) {
  const size_t bytes = rows.Bytes(ShapeOf(in));
  if (rows.total() >= in.tokens || bytes >= out.size()) return 0;
  out[0] = static_cast<std::byte>(rows.front);
  out[1] = static_cast<std::byte>(rows.back);
  const tensor::ConstTileView front = tensor::SliceTokens(in, 0, rows.front);
  EncodeRaw(front, out.data() + 2);
  EncodeRaw(tensor::SliceTokens(in, in.tokens - rows.back, rows.back),
            out.data() + 2 + front.values() * sizeof(uint16_t));
  return bytes;
}

base::Result<ProtectedRows> ReadProtected(std::span<const std::byte> in, const tensor::TileView& out) {
  if (in.size() < 2) return base::Corrupt("protect: payload of {} bytes", in.size());
  const ProtectedRows rows{static_cast<uint8_t>(in[0]), static_cast<uint8_t>(in[1])};
  if (rows.total() >= out.tokens || in.size() < rows.Bytes(ShapeOf(out))) {
    return base::Corrupt("protect: {} + {} raw tokens of {} in a payload of {} bytes", rows.front, rows.back,
                         out.tokens, in.size());
  }
  const tensor::TileView front = tensor::SliceTokens(out, 0, rows.front);
  DecodeRaw(in.data() + 2, front);
  DecodeRaw(in.data() + 2 + front.values() * sizeof(uint16_t),
            tensor::SliceTokens(out, out.tokens - rows.back, rows.back));
  return rows;
}

}  // namespace kvplane::codec
