// What this build can do, as it says in HELLO, and what a peer must be able to do.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transfer/wire_frames.h"

namespace kvplane::transfer {

// `profiles`: those this end can decode with, at most kMaxHelloProfiles.
HelloFrame MakeHello(uint8_t role, uint64_t credit_bytes, const codec::ProfileSet& profiles = {});

// kUnimplemented names what of a transfer `peer` cannot take: dtype, a codec stage, the size of a tile.
// kFailedPrecondition: it has not loaded `profile`; null: the strategy needs none.
base::Status CheckPeer(const HelloFrame& peer, const codec::Strategy& strategy, const TileGrid& grid,
                       const codec::ModelProfile* profile = nullptr);

// The profile that the strategies of `open` take, out of those loaded here; null when they need none.
// kCorrupt: OPEN names a profile that nothing takes, none for a strategy that needs one, or tiles of some KV
// heads for a strategy that needs all. kFailedPrecondition: the profile is not loaded, or of another model.
base::Result<std::shared_ptr<const codec::ModelProfile>> ProfileOf(
    const OpenFrame& open, std::span<const codec::Strategy> strategies, const KvDescriptor& descriptor,
    const codec::ProfileSet& loaded);

// kFailedPrecondition names the first field in which `pulled` differs from `offered`.
base::Status CheckSameKv(const KvDescriptor& offered, const KvDescriptor& pulled);

// kInvalidArgument: empty or longer than kMaxTransferIdBytes.
base::Status CheckTransferId(std::string_view id);

}  // namespace kvplane::transfer
