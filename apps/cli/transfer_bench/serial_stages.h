// SerialStages: the same work as a transfer, one stage after the other on one thread each: encode all tiles,
// write them all, decode them all. The sum is what a transfer without overlap would take.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "apps/cli/kv_sample.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/codec_cache.h"
#include "kvplane/transport/shaped_transport.h"

namespace kvplane::cli {

struct SerialTimes {
  double encode_s = 0;
  double wire_s = 0;  // 0 where it was not measured
  double decode_s = 0;
  uint64_t bytes = 0;  // coded
};

// Encodes the first `tokens` tokens of `from` tile by tile and decodes them into `to`, in the tiles a
// transfer would cut.
base::Result<SerialTimes> CodeSerially(const codec::SideCodecs& codecs, const PagedKv& from, PagedKv& to,
                                       uint32_t tokens);

// Seconds to move `bytes` through a socket on loopback, one thread writing and one reading, each with plain
// system calls on `piece_bytes` at a time.
base::Result<double> PlainSocketCopy(uint64_t bytes, size_t piece_bytes);

}  // namespace kvplane::cli
