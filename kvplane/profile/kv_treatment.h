// KvTreatment: what happens to the KV of a prefix before the model goes on behind it.
//
// A strategy's round trip (kv_recoder.h), or the noise that the fit injects to see what it costs.
//
// Thread safety: const access from many threads.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kvplane/base/status.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::profile {

class KvTreatment {
 public:
  KvTreatment() = default;
  KvTreatment(const KvTreatment&) = delete;
  KvTreatment& operator=(const KvTreatment&) = delete;
  virtual ~KvTreatment() = default;

  virtual std::string Name() const = 0;
  // from, to: [layers] pages that cover `tokens` tokens counted from position 0, in page formats of their
  // own; they may be the same pages. Writes all layers and sides of `to`; returns the bytes the KV took
  // meanwhile. `workspace` belongs to the caller's thread.
  virtual base::Result<uint64_t> Apply(const tensor::KvGeometry& geometry,
                                       std::span<const tensor::LayerPages> from, uint32_t tokens,
                                       codec::Workspace& workspace,
                                       std::span<const tensor::LayerPages> to) const = 0;
};

}  // namespace kvplane::profile
