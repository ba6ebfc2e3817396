#include "kvplane/profile/strategy_grid.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace kvplane::profile {
namespace {

using Text = std::string_view;

// What several sub-spaces vary. Protection: none, sinks as StreamingLLM names them, sinks and the recent
// tokens that KVTC keeps.
constexpr Text kProtect[] = {"", "protect(sinks=4,recent=0)", "protect(sinks=4,recent=128)"};
constexpr Text kRotation[] = {"", "hadamard"};
constexpr Text kKeyGeometry[] = {"", "centre(block)", "unrope", "unrope|centre(static)"};
constexpr Text kPosition[] = {"", "unrope"};
constexpr Text kCentre[] = {"", "centre(static)"};
constexpr Text kWeight[] = {"uniform", "model"};
constexpr Text kSymbolCodes[] = {"pack", "rans(stream)", "bitplane_rle", "zstd(level=3)"};

constexpr Text kLosslessChains[] = {"store",         "exponent(window)", "exponent(rans)",
                                    "zstd(level=1)", "zstd(level=9)",    "lz4"};
constexpr GridAxis kLosslessAxes[] = {{"chain", kLosslessChains}};

constexpr Text kCasts[] = {"int8(token_head)",
                           "int8(head)",
                           "fp8(e4m3,scale=head)",
                           "fp8(e4m3,scale=one)",
                           "fp8(e5m2,scale=head)",
                           "nvfp4",
                           "mxfp4"};
constexpr GridAxis kCastAxes[] = {
    {"protect", kProtect}, {"rotation", kRotation}, {"cast_k", kCasts}, {"cast_v", kCasts}};

constexpr Text kAffineTransforms[] = {"", "hadamard", "delta(group=8)"};
constexpr Text kAffineBits[] = {"2", "4", "8"};
constexpr Text kAffineGroups[] = {"32", "64", "128"};
constexpr GridAxis kAffineAxes[] = {
    {"protect", kProtect},   {"geometry", kKeyGeometry}, {"transform", kAffineTransforms},
    {"bits_k", kAffineBits}, {"bits_v", kAffineBits},    {"group", kAffineGroups}};

// KVServe's fine grid, read from its result files: 2 * 9 * 4 * 4 * 3 * 3 = 2,592 points.
constexpr Text kKvserveRatios[] = {"10", "20", "30", "40", "50", "60", "70", "80", "90"};
constexpr Text kKvserveHigh[] = {"8", "10", "12", "16"};
constexpr Text kKvserveLow[] = {"4", "6", "8"};
constexpr GridAxis kKvserveAxes[] = {{"rotation", kRotation},  {"ratio", kKvserveRatios},
                                     {"high_k", kKvserveHigh}, {"high_v", kKvserveHigh},
                                     {"low_k", kKvserveLow},   {"low_v", kKvserveLow}};
// The 144 points that its published artefact searches, each with both of its lossless coders.
constexpr Text kArtefactRatios[] = {"30", "50", "70", "90"};
constexpr Text kArtefactHigh[] = {"12", "10", "8"};
constexpr Text kArtefactLow[] = {"6", "4"};
constexpr Text kArtefactCodes[] = {"rans(stream)", "bitplane_rle"};
constexpr GridAxis kArtefactAxes[] = {{"ratio", kArtefactRatios}, {"high_k", kArtefactHigh},
                                      {"high_v", kArtefactHigh},  {"low_k", kArtefactLow},
                                      {"low_v", kArtefactLow},    {"code", kArtefactCodes}};
// Its split by layers instead of heads: the last third is low.
constexpr GridAxis kKvserveLayerAxes[] = {{"rotation", kRotation},
                                          {"high_k", kKvserveHigh},
                                          {"high_v", kKvserveHigh},
                                          {"low_k", kKvserveLow},
                                          {"low_v", kKvserveLow}};

constexpr Text kLevelTransforms[] = {"", "hadamard", "delta(group=8)", "pca(head)"};
constexpr Text kLevelCounts[] = {"3", "4", "6", "8", "12", "16"};
constexpr Text kLevelGroups[] = {"0", "32"};
constexpr GridAxis kLevelAxes[] = {{"transform", kLevelTransforms},
                                   {"m_k", kLevelCounts},
                                   {"m_v", kLevelCounts},
                                   {"group", kLevelGroups},
                                   {"code", kSymbolCodes}};

constexpr Text kCachegenLevels[] = {"1", "2", "3"};
constexpr Text kCachegenTransforms[] = {"", "delta(group=10)", "hadamard"};
constexpr GridAxis kCachegenAxes[] = {{"protect", kProtect},
                                      {"transform", kCachegenTransforms},
                                      {"level_k", kCachegenLevels},
                                      {"level_v", kCachegenLevels},
                                      {"code", kSymbolCodes}};

constexpr Text kLloydTransforms[] = {"hadamard", "pca(head)"};
constexpr Text kLloydGeometry[] = {"", "centre(block)", "centre(static)"};
constexpr Text kLloydBits[] = {"1", "2", "3", "4"};
constexpr Text kLloydCodes[] = {"pack", "rans(stream)"};
constexpr GridAxis kLloydAxes[] = {{"protect", kProtect},           {"geometry", kLloydGeometry},
                                   {"transform", kLloydTransforms}, {"bits_k", kLloydBits},
                                   {"bits_v", kLloydBits},          {"code", kLloydCodes}};

// Our own: entropy-coded uniform quantisation with class tables. 7 dB is where values begin to vanish, 31 dB
// is as good as FP8.
constexpr Text kClassTransforms[] = {
    "", "hadamard", "pca(head,plain)", "pca(head,attention)", "pca(layer,plain)", "pca(layer,attention)"};
constexpr Text kKeySnr[] = {"9", "12", "15", "17", "21", "26", "31"};
constexpr Text kValueSnr[] = {"7", "10", "12", "16", "21", "26", "31"};
constexpr GridAxis kClassAxes[] = {
    {"protect", kProtect}, {"position", kPosition}, {"centre", kCentre}, {"transform", kClassTransforms},
    {"weight", kWeight},   {"snr_k", kKeySnr},      {"snr_v", kValueSnr}};

constexpr Text kBands[] = {"heads(ratio=25)", "heads(ratio=50)", "heads(ratio=75)", "layers(last,ratio=33)",
                           "layers(first,ratio=33)"};
constexpr Text kBandTransforms[] = {"", "pca(head,attention)", "pca(layer,attention)"};
constexpr Text kBandDrop[] = {"3", "6"};
constexpr Text kBandKeySnr[] = {"12", "15", "17", "21"};
constexpr Text kBandValueSnr[] = {"10", "12", "16", "21"};
constexpr GridAxis kBandAxes[] = {{"bands", kBands},
                                  {"transform", kBandTransforms},
                                  {"drop", kBandDrop},
                                  {"snr_k", kBandKeySnr},
                                  {"snr_v", kBandValueSnr}};

constexpr Text kNestedLayers[] = {"1", "2", "3"};
constexpr Text kNestedTransforms[] = {"", "pca(head,attention)", "pca(layer,attention)"};
constexpr Text kNestedSnr[] = {"15", "21", "26"};
constexpr GridAxis kNestedAxes[] = {{"position", kPosition},
                                    {"transform", kNestedTransforms},
                                    {"layers", kNestedLayers},
                                    {"snr_k", kNestedSnr},
                                    {"snr_v", kNestedSnr}};

constexpr Text kKvtcRanks[] = {"64", "128", "256", "512", "0"};
constexpr Text kKvtcLevels[] = {"8", "16", "32", "64"};
constexpr Text kKvtcCodes[] = {"pack", "zstd(level=3)", "rans(stream)"};
constexpr GridAxis kKvtcAxes[] = {{"protect", kProtect},
                                  {"rank", kKvtcRanks},
                                  {"m_k", kKvtcLevels},
                                  {"m_v", kKvtcLevels},
                                  {"code", kKvtcCodes}};

constexpr Subspace kSubspaces[] = {
    {"lossless", "bit-exact coders", "{chain}", "{chain}", kLosslessAxes},
    {"casts", "8-bit and 4-bit number formats", "{protect} | {rotation} | {cast_k} | pack",
     "{protect} | {rotation} | {cast_v} | pack", kCastAxes},
    {"affine", "KIVI: min-max groups, keys by channel and values by token",
     "{protect} | {geometry} | {transform} | affine(bits={bits_k},group={group}) | pack",
     "{protect} | {transform} | affine(bits={bits_v},group={group}) | pack", kAffineAxes},
    {"kvserve", "KVServe: rotation or none, two precision bands of heads, min-max levels, entropy coder",
     "heads(ratio={ratio}) | {rotation} | levels(m={high_k},low={low_k}) | rans(stream)",
     "heads(ratio={ratio}) | {rotation} | levels(m={high_v},low={low_v}) | rans(stream)", kKvserveAxes},
    {"kvserve-artefact", "the points KVServe's published artefact searches, with both of its coders",
     "heads(ratio={ratio}) | hadamard | levels(m={high_k},low={low_k}) | {code}",
     "heads(ratio={ratio}) | hadamard | levels(m={high_v},low={low_v}) | {code}", kArtefactAxes},
    {"kvserve-layers", "KVServe with bands of layers",
     "layers(last,ratio=33) | {rotation} | levels(m={high_k},low={low_k}) | rans(stream)",
     "layers(last,ratio=33) | {rotation} | levels(m={high_v},low={low_v}) | rans(stream)", kKvserveLayerAxes},
    {"levels", "min-max levels behind every transform and before every coder of symbols",
     "{transform} | levels(m={m_k},group={group}) | {code}",
     "{transform} | levels(m={m_v},group={group}) | {code}", kLevelAxes},
    {"cachegen", "CacheGen: bins by layer third, with and without anchors",
     "{protect} | {transform} | cachegen(level={level_k}) | {code}",
     "{protect} | {transform} | cachegen(level={level_v}) | {code}", kCachegenAxes},
    {"lloyd", "TurboQuant: rotated vectors on a Lloyd-Max codebook, their norm kept",
     "{protect} | {geometry} | {transform} | lloyd(bits={bits_k}) | {code}",
     "{protect} | {transform} | lloyd(bits={bits_v}) | {code}", kLloydAxes},
    {"kvtc", "KVTC: principal components of a layer, fixed levels, a general coder",
     "{protect} | unrope | centre(static) | pca(layer,rank={rank}) | levels(m={m_k},axis=tensor) | {code}",
     "{protect} | centre(static) | pca(layer,rank={rank}) | levels(m={m_v},axis=tensor) | {code}", kKvtcAxes},
    {"class", "uniform quantisation with class tables: in place, rotated, principal components",
     "{protect} | {position} | {centre} | {transform} | ecsq(snr={snr_k},weight={weight}) | rans(class)",
     "{protect} | {centre} | {transform} | ecsq(snr={snr_v},weight={weight}) | rans(class)", kClassAxes},
    {"class-bands", "class tables with a coarser step for the low band",
     "{bands} | unrope | centre(static) | {transform} | ecsq(snr={snr_k},low={drop},weight=model) | "
     "rans(class)",
     "{bands} | centre(static) | {transform} | ecsq(snr={snr_v},low={drop},weight=model) | rans(class)",
     kBandAxes},
    {"nested", "nested ternary refinements: a prefix of the layers is a coarser tile",
     "{position} | centre(static) | {transform} | ternary(layers={layers},snr={snr_k}) | rans(class)",
     "centre(static) | {transform} | ternary(layers={layers},snr={snr_v}) | rans(class)", kNestedAxes},
};

constexpr Text kFull[] = {"lossless",       "casts",       "affine",   "kvserve", "kvserve-artefact",
                          "kvserve-layers", "levels",      "cachegen", "lloyd",   "kvtc",
                          "class",          "class-bands", "nested"};
constexpr Text kPublished[] = {"casts",          "affine",   "kvserve", "kvserve-artefact",
                               "kvserve-layers", "cachegen", "lloyd",   "kvtc"};
constexpr Grid kGrids[] = {
    {"full", "every sub-space", kFull},
    {"published", "what published methods span, without our own combinations", kPublished},
};

static_assert(std::size(kFull) == std::size(kSubspaces));

}  // namespace

std::span<const Subspace> Subspaces() { return kSubspaces; }

std::span<const Grid> Grids() { return kGrids; }

const Subspace* FindSubspace(std::string_view name) {
  const auto at = std::find_if(std::begin(kSubspaces), std::end(kSubspaces),
                               [name](const Subspace& subspace) { return subspace.name == name; });
  return at == std::end(kSubspaces) ? nullptr : at;
}

const Grid* FindGrid(std::string_view name) {
  const auto at = std::find_if(std::begin(kGrids), std::end(kGrids),
                               [name](const Grid& grid) { return grid.name == name; });
  return at == std::end(kGrids) ? nullptr : at;
}

}  // namespace kvplane::profile
