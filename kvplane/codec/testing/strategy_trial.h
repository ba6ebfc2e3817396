// What a strategy does to a tile and to an object, for tests: values as a profile describes them, coded and
// decoded, and the error between.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/dtype.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec::testing {

// The space in which a side of the cache lies: keys as the model writes them, rotated.
inline KvSpace SpaceOf(tensor::Side side) {
  return side == tensor::Side::kKey ? KvSpace::kKeyRotated : KvSpace::kValue;
}

// The codec of a chain of the key side that takes no profile.
inline base::Result<std::shared_ptr<const TileCodec>> KeyCodecOf(std::string_view chain) {
  KVPLANE_ASSIGN_OR_RETURN(const SideStrategy side, SideStrategy::Parse(chain, tensor::Side::kKey));
  return TileCodec::Create(side, tensor::Side::kKey);
}

// [tokens, heads, head_dim] bf16: normal values with the means and deviations of the profile's channels.
inline std::vector<uint16_t> ProfileTile(const ModelProfile& profile, tensor::Side side, uint32_t layer,
                                         uint32_t tokens, base::Rng& rng) {
  const SpaceData& space = *profile.space(layer, SpaceOf(side));
  const auto& lanes = space.bases[static_cast<size_t>(Basis::kChannel)]->lanes;
  std::vector<uint16_t> values;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (size_t lane = 0; lane < lanes.size(); ++lane) {
      const float deviation = std::exp2(static_cast<float>(lanes[lane].deviation) / kOctave);
      const float mean = tensor::Bf16ToFloat(space.mean[lane]);
      values.push_back(tensor::FloatToBf16(mean + deviation * static_cast<float>(rng.Normal())));
    }
  }
  return values;
}

struct TrialError {
  double snr_db = 0;  // of the values, their means included; +inf where nothing has changed
  bool finite = true;
  bool exact = true;
};

inline TrialError ErrorOf(std::span<const uint16_t> in, std::span<const uint16_t> out) {
  double signal = 0;
  double noise = 0;
  TrialError error;
  for (size_t i = 0; i < in.size(); ++i) {
    error.exact &= in[i] == out[i];
    const double a = tensor::Bf16ToFloat(in[i]);
    const double b = tensor::Bf16ToFloat(out[i]);
    error.finite &= std::isfinite(b);
    signal += a * a;
    noise += (a - b) * (a - b);
  }
  error.snr_db = 10 * std::log10(signal / noise);
  return error;
}

struct Trial {
  std::vector<std::byte> coded;
  std::vector<uint16_t> values;  // decoded
};

// Encodes a contiguous tile and decodes it again, from bytes that end where their allocation ends.
inline base::Result<Trial> CodeTile(const TileCodec& codec, std::span<const uint16_t> values,
                                    const TileShape& shape, const TileContext& context) {
  Workspace workspace;
  const auto in = tensor::ConstTileView::Contiguous(values.data(), shape.tokens, shape.heads, shape.head_dim);
  std::vector<std::byte> out(codec.MaxEncodedBytes(shape));
  KVPLANE_ASSIGN_OR_RETURN(const size_t bytes, codec.Encode(in, workspace, out, context));
  Trial trial;
  trial.coded.assign(out.begin(), out.begin() + static_cast<ptrdiff_t>(bytes));
  trial.values.assign(values.size(), uint16_t{0xbeef});
  const auto exact = std::make_unique<std::byte[]>(bytes);
  std::copy_n(out.begin(), bytes, exact.get());
  KVPLANE_RETURN_IF_ERROR(codec.Decode(
      {exact.get(), bytes}, workspace,
      tensor::TileView::Contiguous(trial.values.data(), shape.tokens, shape.heads, shape.head_dim), context));
  return trial;
}

}  // namespace kvplane::codec::testing
