// The table of presets: plain ones, published methods, then our own combinations (docs/strategies.md).
#include <algorithm>

#include "kvplane/codec/strategy.h"

namespace kvplane::codec {
namespace {

constexpr Preset kPresets[] = {
    {"off", "store", "uncompressed, but framed and checked", ""},
    {"lossless", "exponent(window)", "bit-exact, 12 bits per value: 4-bit exponents in a window", ""},
    {"lossless-max", "exponent(rans)", "bit-exact, entropy-coded exponents: about 11 bits per value", ""},
    {"fp8", "fp8(e4m3,scale=head) | pack", "FP8 E4M3 with a scale per head of a tile", ""},
    {"int8", "affine(bits=8,group=64) | pack", "8-bit codes, keys by channel, values by token", ""},
    {"int4", "affine(bits=4,group=64) | pack", "4-bit codes, keys by channel, values by token", ""},
    {"int2", "affine(bits=2,group=32) | pack", "2-bit codes, keys by channel, values by token", ""},
    {"nvfp4", "nvfp4 | pack", "NVFP4: E2M1 in blocks of 16 with E4M3 scales",
     "NVIDIA, \"Introducing NVFP4\", 2025"},
    {"mxfp4", "mxfp4 | pack", "MXFP4: E2M1 in blocks of 32 with power-of-two scales",
     "OCP Microscaling Formats (MX) Specification 1.0, 2023"},

    {"kivi-4", "affine(bits=4,group=32) | pack", "KIVI's 4-bit quantiser at its published group of 32",
     "KIVI, Liu et al., ICML 2024"},
    {"kivi-2", "affine(bits=2,group=32) | pack", "KIVI's 2-bit quantiser at its published group of 32",
     "KIVI, Liu et al., ICML 2024"},
    {"cachegen", "cachegen(level=2) | rans(stream)",
     "bins by layer third, one range per token, as shipped; rANS in place of its arithmetic coder",
     "CacheGen, Liu et al., SIGCOMM 2024, and LMCache's serializer"},
    {"cachegen-delta", "delta(group=10) | cachegen(level=2) | rans(stream)",
     "the same with the anchor tokens of the paper", "CacheGen, Liu et al., SIGCOMM 2024, section 5"},
    {"turboquant-4", "hadamard | lloyd(bits=4) | pack", "rotated vectors, Lloyd-Max codebook, norm kept",
     "TurboQuant, Zandieh et al., ICLR 2026 (the mse variant)"},
    {"kvserve-top",
     "k: hadamard | levels(m=6) | rans(stream); v: heads(ratio=90) | hadamard | levels(m=6,low=4) | "
     "rans(stream)",
     "the configuration KVServe ships as its best: 6 levels, 4 for the values of 90 % of the heads",
     "KVServe, SIGCOMM 2026, \"original_top\""},
    {"splitzip", "exponent(window)", "4-bit exponents, escapes for the rest: the same chain as lossless",
     "SplitZip, 2026"},
    {"kvtc-like",
     "k: protect(sinks=4,recent=128) | unrope | centre(static) | pca(layer) | levels(m=64,axis=tensor) | "
     "zstd; "
     "v: protect(sinks=4,recent=128) | centre(static) | pca(layer) | levels(m=64,axis=tensor) | zstd",
     "principal components of a layer on one step, a general coder; recent and first tokens raw",
     "KVTC, NVIDIA, ICLR 2026 (arXiv 2511.01815)"},

    {"c07", "protect | centre(static) | ecsq(snr=31) | rans(class)", "as good as FP8 at a third of the bytes",
     ""},
    {"c08",
     "k: centre(block) | hadamard | affine(bits=4,group=128,axis=token) | pack; "
     "v: hadamard | affine(bits=4,group=128,axis=token) | pack",
     "4-bit codes of rotated values, no profile", ""},
    {"c10", "k: fp8(e4m3,scale=head) | pack; v: affine(bits=4,group=128) | pack",
     "keys in FP8, values in 4 bits", ""},
    {"c11",
     "k: protect | centre(static) | ecsq(snr=21) | rans(class); v: protect | ecsq(snr=16) | rans(class)",
     "balanced: class tables on the channels as they are, at the speed of memory", ""},
    {"c12",
     "k: protect | unrope | centre(static) | ecsq(snr=21) | rans(class); v: protect | ecsq(snr=16) | "
     "rans(class)",
     "c11 on keys before RoPE", ""},
    {"c13",
     "k: protect | unrope | centre(static) | pca(head) | ecsq(snr=21) | rans(class); "
     "v: protect | centre(static) | pca(head) | ecsq(snr=16) | rans(class)",
     "c12 on the principal components of each head", ""},
    {"c14",
     "k: protect | unrope | centre(static) | pca(layer) | ecsq(snr=21) | rans(class); "
     "v: protect | centre(static) | pca(layer) | ecsq(snr=16) | rans(class)",
     "c12 on the principal components of each layer", ""},
    {"c15",
     "k: protect | unrope | centre(static) | pca(layer,attention) | ecsq(snr=21,weight=model) | rans(class); "
     "v: protect | centre(static) | pca(layer,attention) | ecsq(snr=16,weight=model) | rans(class)",
     "c14 in the metric of attention, one slope for the model", ""},
    {"c17",
     "k: protect | unrope | centre(static) | pca(layer,attention) | ecsq(snr=17,weight=model) | rans(class); "
     "v: protect | centre(static) | pca(layer,attention) | ecsq(snr=12,weight=model) | rans(class)",
     "c15 for a degraded link", ""},
    {"c19",
     "k: protect | unrope | centre(static) | pca(layer,attention) | ternary(layers=2,snr=27,weight=model) | "
     "rans(class); "
     "v: protect | centre(static) | pca(layer,attention) | ternary(layers=2,snr=27,weight=model) | "
     "rans(class)",
     "c15 in a base of 8 dB and two refinements of 9.5 dB", ""},

    {"compact",
     "k: protect | unrope | centre(static) | pca(layer,attention) | ecsq(snr=8,weight=model) | rans(class); "
     "v: protect | centre(static) | pca(layer,attention) | ecsq(snr=8,weight=model) | rans(class)",
     "c15 on one slope for both sides, for answers as without compression where the profile was fitted on "
     "text like the workload's",
     ""},
    {"tight",
     "k: protect(sinks=2) | unrope | centre(static) | pca(layer,attention) | ecsq(snr=5,weight=model) | "
     "rans(class); "
     "v: protect(sinks=2) | centre(static) | pca(layer,attention) | ecsq(snr=5,weight=model) | rans(class)",
     "compact with coarser steps and two tokens raw, for slow links and cold stores", ""},
};

}  // namespace

std::span<const Preset> Presets() { return kPresets; }

const Preset* FindPreset(std::string_view name) {
  const auto at = std::find_if(std::begin(kPresets), std::end(kPresets),
                               [name](const Preset& preset) { return preset.name == name; });
  return at == std::end(kPresets) ? nullptr : at;
}

}  // namespace kvplane::codec
