#include "kvplane/codec/bitplane/bitplane_stage.h"

#include "kvplane/codec/bitplane/bitplane_code.h"
#include "kvplane/codec/symbol_plane.h"

namespace kvplane::codec {
namespace {

base::Status Validate(Chain chain, size_t) {
  if (MakesSymbols(chain)) return base::Status::Ok();
  return base::InvalidArgument(
      "L1: 'bitplane_rle' takes byte symbols; put a quantize stage such as 'levels' before it");
}

base::Result<std::unique_ptr<TileCoder>> Bind(Chain chain, tensor::Side,
                                              std::shared_ptr<const ModelProfile> profile) {
  return MakeSymbolCoder(BindSymbolQuantizer(chain, std::move(profile)), std::make_unique<BitplaneCode>());
}

}  // namespace

constinit const StageFunctions kBitplaneFunctions = {
    .validate = Validate, .least_bytes = nullptr, .encode = nullptr, .decode = nullptr, .bind = Bind};

}  // namespace kvplane::codec
