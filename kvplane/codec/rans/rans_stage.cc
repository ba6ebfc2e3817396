#include "kvplane/codec/rans/rans_stage.h"

#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/codec/rans/stream_code.h"
#include "kvplane/codec/symbol_plane.h"
#include "kvplane/kernel/rans/rans_symbols.h"

namespace kvplane::codec {
namespace {

RansTableKind TableOf(const StageCall& call) { return static_cast<RansTableKind>(call.params[0]); }

// Quantisers that code themselves by classes, profile in hand.
bool HasClasses(const StageCall& call) {
  return call.stage_id == kStageEcsq || call.stage_id == kStageTernary;
}

base::Status Validate(Chain chain, size_t at) {
  const StageCall* quantizer = at == 0 ? nullptr : FindCall(chain, Slot::kQuantize);
  if (quantizer == nullptr) {
    return base::InvalidArgument(
        "L1: 'rans' takes symbols; put a quantize stage such as 'levels' before it (values without one: "
        "'exponent(mode=rans)')");
  }
  const std::string_view name = StageOf(*quantizer).name;
  if (TableOf(chain[at]) == RansTableKind::kClass) {
    if (HasClasses(*quantizer)) return base::Status::Ok();
    return base::InvalidArgument(
        "L1: 'rans(table=class)' takes classes, '{}' has none; use rans(table=stream)", name);
  }
  if (!MakesSymbols(chain)) {
    return base::InvalidArgument(
        "L1: 'rans(table=stream)' takes byte symbols, '{}' makes none; use "
        "rans(table=class)",
        name);
  }
  const uint32_t alphabet = BindSymbolQuantizer(chain, nullptr)->MaxAlphabet();
  if (alphabet > kernel::kRansMaxAlphabet) {
    return base::InvalidArgument("L1: 'rans' takes alphabets of at most {} symbols, '{}' makes {}",
                                 kernel::kRansMaxAlphabet, name, alphabet);
  }
  return base::Status::Ok();
}

base::Result<std::unique_ptr<TileCoder>> Bind(Chain chain, tensor::Side side,
                                              std::shared_ptr<const ModelProfile> profile) {
  if (TableOf(chain.back()) == RansTableKind::kClass) return BindEcsqCoder(chain, side, std::move(profile));
  return MakeSymbolCoder(BindSymbolQuantizer(chain, std::move(profile)), std::make_unique<StreamCode>());
}

}  // namespace

constinit const StageFunctions kRansFunctions = {
    .validate = Validate, .least_bytes = nullptr, .encode = nullptr, .decode = nullptr, .bind = Bind};

}  // namespace kvplane::codec
