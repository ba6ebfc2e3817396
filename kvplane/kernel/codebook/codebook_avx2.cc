#include "kvplane/kernel/codebook/codebook_definition.h"

namespace kvplane::kernel::internal {
namespace {

KVPLANE_TARGET_AVX2 bool EncodeLloyd(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                     uint32_t bits, std::byte* norms, uint8_t* symbols) {
  return EncodeLloydBody(rows, tokens, channels, bits, norms, symbols);
}
KVPLANE_TARGET_AVX2 void DecodeLloyd(const std::byte* norms, const uint8_t* symbols, uint32_t tokens,
                                     uint32_t channels, uint32_t bits, uint16_t* const* rows) {
  DecodeLloydBody(norms, symbols, tokens, channels, bits, rows);
}
KVPLANE_TARGET_AVX2 void EncodeNvfp4(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                     float tensor_scale, std::byte* scales, uint8_t* symbols) {
  EncodeNvfp4Body(rows, tokens, channels, tensor_scale, scales, symbols);
}
KVPLANE_TARGET_AVX2 void DecodeNvfp4(const std::byte* scales, const uint8_t* symbols, uint32_t tokens,
                                     uint32_t channels, float tensor_scale, uint16_t* const* rows) {
  DecodeNvfp4Body(scales, symbols, tokens, channels, tensor_scale, rows);
}
KVPLANE_TARGET_AVX2 bool EncodeMxfp4(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                     std::byte* scales, uint8_t* symbols) {
  return EncodeMxfp4Body(rows, tokens, channels, scales, symbols);
}
KVPLANE_TARGET_AVX2 void DecodeMxfp4(const std::byte* scales, const uint8_t* symbols, uint32_t tokens,
                                     uint32_t channels, uint16_t* const* rows) {
  DecodeMxfp4Body(scales, symbols, tokens, channels, rows);
}

}  // namespace

constinit const CodebookKernels kCodebookAvx2 = {EncodeLloyd, DecodeLloyd, EncodeNvfp4,
                                                 DecodeNvfp4, EncodeMxfp4, DecodeMxfp4};

}  // namespace kvplane::kernel::internal
