// SerialStages: the codec stages of a transfer, one after the other on one thread: encode all tiles, then
// decode them all. With the time the wire needs for the bytes (bytes over the shaped link's rate) they sum to
// what a transfer without overlap would take.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "apps/cli/kv_sample.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/codec_cache.h"

namespace kvplane::cli {

struct SerialTimes {
  double encode_s = 0;
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
