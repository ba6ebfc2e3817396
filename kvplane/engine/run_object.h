// Run objects: the KV of one block run of a prompt as an object (docs/formats/object.md), written from pages
// and read back into them.
//
// Runs start anywhere in a page: the first token of run r is r * run_tokens of the request. Thread safety:
// pure functions; a codec::Workspace belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/codec_cache.h"
#include "kvplane/codec/object.h"
#include "kvplane/engine/pinned_pages.h"
#include "kvplane/model/model_config.h"
#include "kvplane/store/entry.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::engine {

// What all runs of one engine have in common.
struct RunShape {
  tensor::KvGeometry geometry;
  std::array<std::byte, 32> model_fingerprint{};
  std::array<std::byte, 16> rope{};
  uint32_t run_tokens = 0;

  uint64_t raw_bytes() const { return geometry.bytes_per_token() * run_tokens; }
  // The most that an object of such a run takes, and the prefix of one, whatever it is coded with.
  uint64_t most_object_bytes() const;
  uint64_t most_prefix_bytes() const;
};

// First half of the SHA-256 of the rotary embedding's configuration.
std::array<std::byte, 16> RopeHash(const model::RopeConfig& rope);

// What runs are written with.
struct RunCoding {
  codec::Strategy strategy;
  std::shared_ptr<const codec::ModelProfile> profile;  // where the strategy needs one
  codec::SideCodecs codecs;                            // of the two
};
base::Result<RunCoding> BindRunCoding(const codec::Strategy& strategy,
                                      std::shared_ptr<const codec::ModelProfile> profile);

// The object of run `run`, whose name is `key`.
base::Result<std::vector<std::byte>> EncodeRun(const RunShape& shape, const RunCoding& coding,
                                               const store::StoreKey& key, uint32_t run,
                                               const PinnedPages& pages, codec::Workspace& workspace);

// Whether an opened object is what its key and place promise. kFailedPrecondition: names what differs.
base::Status CheckRun(const codec::ObjectInfo& info, const RunShape& shape, const store::StoreKey& key,
                      uint32_t run);

// Decodes the section of one layer into the run's place in `pages`. Every tile is verified before a value of
// it is written; after an error the run's tokens of this layer are undefined.
base::Status DecodeRunLayer(const codec::ObjectReader& reader, uint32_t layer,
                            std::span<const std::byte> section, uint32_t run, const PinnedPages& pages,
                            codec::Workspace& workspace);

}  // namespace kvplane::engine
