// Stage `lloyd`: every token and head is a vector with a norm and codes of the Lloyd-Max quantiser of the
// normal distribution: TurboQuant-mse (ICLR 2026) with norm correction. spec.md in this folder is normative.
//
// It wants a rotation before it (`hadamard`), which makes coordinates nearly normal; without one it codes
// what it is given.
#pragma once

#include <memory>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/symbol_quantizer.h"

namespace kvplane::codec {

inline constexpr ParamSpec kLloydParams[] = {
    {.name = "bits",
     .meaning = "bits per value",
     .choices = {},
     .allowed = {},
     .min = 1,
     .max = 4,
     .default_of_side = {4, 4}},
};

extern const StageFunctions kLloydFunctions;

// Symbols: rising values. Side information: norms, [heads, tokens] bf16.
std::unique_ptr<SymbolQuantizer> MakeLloydQuantizer(const StageCall& call);

}  // namespace kvplane::codec
