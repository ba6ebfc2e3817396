// Stage `pca`: coefficients in a basis of the profile, in order of falling importance. spec.md in this folder
// is normative.
//
// Heads share directions, so a basis over a whole layer packs more of the variance into its first components
// than one per head (KVTC, ICLR 2026); it costs heads times the work and needs all heads in the tile.
//
// Thread safety: constant data, pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

enum class PcaScope : uint32_t { kHead = 0, kLayer = 1 };
enum class PcaMetric : uint32_t { kPlain = 0, kAttention = 1 };

inline constexpr std::string_view kPcaScopes[] = {"head", "layer"};
inline constexpr std::string_view kPcaMetrics[] = {"plain", "attention"};
inline constexpr ParamSpec kPcaParams[] = {
    {.name = "scope",
     .meaning = "a basis for each KV head, or one over all KV heads of the layer",
     .choices = kPcaScopes,
     .allowed = {},
     .default_of_side = {0, 0}},
    {.name = "metric",
     .meaning = "what the basis orders by: variance, or the variance that attention sees",
     .choices = kPcaMetrics,
     .allowed = {},
     .default_of_side = {0, 0}},
    {.name = "rank",
     .meaning = "coefficients kept per token (of each head, or of the layer); 0: all the profile has",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 1024,
     .default_of_side = {0, 0}},
};

// The basis a call takes.
Basis BasisOf(const StageCall& call);

extern const StageFunctions kPcaFunctions;

}  // namespace kvplane::codec
