// What this build can do, as it says in HELLO, and what a peer must be able to do.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transfer/wire_frames.h"

namespace kvplane::transfer {

HelloFrame MakeHello(uint8_t role, uint64_t credit_bytes);

// kUnimplemented names what of a transfer `peer` cannot take: dtype, a codec stage, the size of a tile.
base::Status CheckPeer(const HelloFrame& peer, const codec::Strategy& strategy, const TileGrid& grid);

// kFailedPrecondition names the first field in which `pulled` differs from `offered`.
base::Status CheckSameKv(const KvDescriptor& offered, const KvDescriptor& pulled);

// kInvalidArgument: empty or longer than kMaxTransferIdBytes.
base::Status CheckTransferId(std::string_view id);

}  // namespace kvplane::transfer
