#include "kvplane/codec/analyze.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/rng.h"

namespace kvplane::codec {
namespace {

struct Sampled {
  double values = 0;
  double bytes = 0;
  double encode_s = 0;
  double decode_s = 0;
};

struct Place {
  uint32_t layer = 0;
  TileRef tile;
};

// Codes single tiles and takes the time of it.
class TileProbe {
 public:
  TileProbe(const ObjectInfo& info, std::span<const tensor::LayerPages> layers,
            std::shared_ptr<const TileCodec> codec, Workspace& workspace)
      : info_(info), layers_(layers), codec_(std::move(codec)), workspace_(workspace) {}

  base::Result<Sampled> Code(const Place& place) {
    const TileShape shape = ShapeOf(info_, place.tile);
    const TileContext context = ContextOf(info_, place.layer, place.tile);
    const tensor::ConstTileView view = tensor::AsConst(tensor::MakeTileView(
        layers_[place.layer], place.tile.side, place.tile.token_tile * tensor::kTileTokens, shape.tokens,
        place.tile.head_group * info_.heads_per_tile(), shape.heads, shape.head_dim));
    coded_.resize(codec_->MaxEncodedBytes(shape));
    decoded_.resize(shape.values());
    const base::Duration start = base::ThreadCpuTime();
    KVPLANE_ASSIGN_OR_RETURN(const size_t bytes, codec_->Encode(view, workspace_, coded_, context));
    const base::Duration encoded = base::ThreadCpuTime();
    KVPLANE_RETURN_IF_ERROR(codec_->Decode(
        std::span<const std::byte>(coded_).first(bytes), workspace_,
        tensor::TileView::Contiguous(decoded_.data(), shape.tokens, shape.heads, shape.head_dim), context));
    const base::Duration end = base::ThreadCpuTime();
    return Sampled{static_cast<double>(shape.values()), static_cast<double>(bytes),
                   base::ToSeconds(encoded - start), base::ToSeconds(end - encoded)};
  }

 private:
  const ObjectInfo& info_;
  std::span<const tensor::LayerPages> layers_;
  const std::shared_ptr<const TileCodec> codec_;
  Workspace& workspace_;
  std::vector<std::byte> coded_;
  std::vector<uint16_t> decoded_;
};

// Tile `index` of a side, counted over all layers.
Place PlaceOf(const ObjectInfo& info, tensor::Side side, uint64_t index) {
  const uint64_t per_layer = info.tiles_per_layer() / 2;
  const size_t in_layer = TileIndex(info, {.side = side}) + static_cast<size_t>(index % per_layer);
  return {static_cast<uint32_t>(index / per_layer), TileAt(info, in_layer)};
}

// Adds what the sample says of all `population` tiles of a side, which hold `values` values.
void AddSide(const std::vector<Sampled>& sample, uint64_t population, double values, Analysis& out) {
  Sampled sum;
  for (const Sampled& tile : sample) {
    sum.values += tile.values;
    sum.bytes += tile.bytes;
    sum.encode_s += tile.encode_s;
    sum.decode_s += tile.decode_s;
    const double bits = 8 * tile.bytes / tile.values;
    if (out.tiles_sampled == 0 || bits < out.least_bits_per_value) out.least_bits_per_value = bits;
    out.greatest_bits_per_value = std::max(out.greatest_bits_per_value, bits);
    ++out.tiles_sampled;
  }
  const double bytes_per_value = sum.bytes / sum.values;
  double squares = 0;
  for (const Sampled& tile : sample) squares += std::pow(tile.bytes - bytes_per_value * tile.values, 2);
  const auto n = static_cast<double>(sample.size());
  const auto all = static_cast<double>(population);
  const double variance = sample.size() < 2 ? 0 : all * (all - n) / n * squares / (n - 1);
  out.tiles += population;
  out.object_bytes += bytes_per_value * values;
  out.object_bytes_error = std::hypot(out.object_bytes_error, std::sqrt(variance));
  out.encode_cpu_s += sum.encode_s / sum.values * values;
  out.decode_cpu_s += sum.decode_s / sum.values * values;
}

base::Status CheckPages(const ObjectInfo& info, std::span<const tensor::LayerPages> layers) {
  if (layers.size() != info.geometry.layers) {
    return base::InvalidArgument("analyze: pages of {} layers for {}", layers.size(), info.geometry.layers);
  }
  for (const tensor::LayerPages& layer : layers) {
    if (layer.format.block_tokens == 0 ||
        uint64_t{layer.pages.size()} * layer.format.block_tokens < info.tokens) {
      return base::InvalidArgument("analyze: {} pages of {} tokens do not cover {} tokens",
                                   layer.pages.size(), layer.format.block_tokens, info.tokens);
    }
  }
  return base::Status::Ok();
}

}  // namespace

base::Result<Analysis> Analyze(const ObjectInfo& info, std::span<const tensor::LayerPages> layers,
                               std::shared_ptr<const ModelProfile> profile, Workspace& workspace,
                               const AnalyzeOptions& options) {
  KVPLANE_RETURN_IF_ERROR(info.Validate());
  KVPLANE_RETURN_IF_ERROR(CheckPages(info, layers));
  Analysis out;
  out.object_bytes = static_cast<double>(OverheadBytes(info));
  base::Rng rng(options.seed);
  const uint64_t population = uint64_t{info.geometry.layers} * (info.tiles_per_layer() / 2);
  const auto values = static_cast<double>(info.raw_bytes() / sizeof(uint16_t) / 2);
  const uint64_t wanted = std::min<uint64_t>(population, std::max(options.tiles_per_side, 2u));
  for (const tensor::Side side : tensor::kSides) {
    KVPLANE_ASSIGN_OR_RETURN(std::shared_ptr<const TileCodec> codec,
                             TileCodec::Create(info.strategy.side(side), side, profile));
    TileProbe probe(info, layers, std::move(codec), workspace);
    const double step = static_cast<double>(population) / static_cast<double>(wanted);
    const double start = rng.Uniform() * step;
    std::vector<Sampled> sample;
    for (uint64_t i = 0; i < wanted; ++i) {
      const auto index =
          std::min(population - 1, static_cast<uint64_t>(start + static_cast<double>(i) * step));
      const Place place = PlaceOf(info, side, wanted == population ? i : index);
      // The first tile also warms the workspace and the caches up: it is coded twice, the second time counts.
      if (i == 0) KVPLANE_RETURN_IF_ERROR(probe.Code(place).status());
      KVPLANE_ASSIGN_OR_RETURN(const Sampled tile, probe.Code(place));
      sample.push_back(tile);
    }
    AddSide(sample, population, values, out);
  }
  return out;
}

}  // namespace kvplane::codec
