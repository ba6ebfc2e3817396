#include "kvplane/store/testing/numbered_object.h"

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/paged_kv.h"

namespace kvplane::store {

StoreKey NumberedKey(uint64_t number, uint64_t tenant) {
  StoreKey key{.tenant = tenant};
  base::Rng rng(number * 0x9e37u + tenant);
  for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
  return key;
}

std::vector<std::byte> NumberedObject(uint64_t number, uint32_t layers) {
  codec::ObjectInfo info;
  info.geometry = {.layers = layers, .kv_heads = 1, .head_dim = 32};
  info.tokens = tensor::kTileTokens;
  auto strategy = codec::Strategy::Parse("off");
  KVPLANE_CHECK(strategy.ok());
  info.strategy = *strategy;
  auto writer = codec::ObjectWriter::Create(info);
  KVPLANE_CHECK(writer.ok());
  base::Rng rng(number);
  codec::Workspace workspace;
  codec::testing::PagedLayer pages(info.geometry, info.tokens, info.tokens);
  for (uint32_t layer = 0; layer < layers; ++layer) {
    for (uint16_t& value : pages.memory()) value = static_cast<uint16_t>(rng.Next());
    KVPLANE_CHECK(writer->AppendLayer(pages.pages(), workspace).ok());
  }
  auto object = writer->Finish();
  KVPLANE_CHECK(object.ok());
  return *std::move(object);
}

uint32_t NumberedLayers(uint64_t number) { return 1 + static_cast<uint32_t>(number * 7919 % 64); }

}  // namespace kvplane::store
