// Analyze: what coding some KV would give and cost, from coding a sample of its tiles.
//
// Tiles are drawn systematically per side, from a random start: evenly over layers, head groups and tokens.
// Their coded bytes are scaled by values (ratio estimator; W. G. Cochran, "Sampling Techniques", 3rd edition,
// 1977, chapters 6 and 8), so that the short last tiles count for what they are. The error is that of a
// simple random sample, which the even spread makes an overestimate as a rule.
//
// Thread safety: a pure function but for the workspace and the clock.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

struct AnalyzeOptions {
  uint32_t tiles_per_side = 32;  // coded at most, at least 2; all of them where there are no more
  uint64_t seed = 1;             // equal seeds draw equal tiles
};

struct Analysis {
  uint64_t tiles = 0;          // of the whole view
  uint64_t tiles_sampled = 0;  // coded to know the rest
  double object_bytes =
      0;  // expected size of the object: prefix, indexes and tiles; exact when all were coded
  double object_bytes_error = 0;       // one standard error of it
  double least_bits_per_value = 0;     // of the sampled tiles, the cheapest
  double greatest_bits_per_value = 0;  // and the dearest
  double encode_cpu_s = 0;             // expected CPU time of one core for all tiles
  double decode_cpu_s = 0;
};

// `layers`: [info.geometry.layers] pages that cover info.tokens tokens, counted from 0. Errors are those of
// ObjectWriter::Create(), and kInvalidArgument for pages that do not cover the tokens.
base::Result<Analysis> Analyze(const ObjectInfo& info, std::span<const tensor::LayerPages> layers,
                               std::shared_ptr<const ModelProfile> profile, Workspace& workspace,
                               const AnalyzeOptions& options = {});

}  // namespace kvplane::codec
