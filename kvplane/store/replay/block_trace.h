// Traces of requests without text: when each came and which blocks its prompt is made of. What a replay
// reads.
//
// A block is a fixed number of prompt tokens; equal numbers mean equal tokens up to and including that block,
// so a cache of blocks can be replayed without them.
//
// Formats (docs/store.md names the sources):
//   mooncake  JSON lines: timestamp (ms), input_length, output_length, hash_ids (one per 512 tokens)
//   agent     JSON lines, one per session: requests with t (s), in, out and hash_rle (run-length coded
//             numbers of 64-token blocks, local to the session); "subagent" entries hold requests of their
//             own
//   azure     CSV: TIMESTAMP,ContextTokens,GeneratedTokens; says nothing about prefixes: no two blocks are
//             equal
// A path that ends in ".zst" is unpacked while it is read.
//
// Thread safety: values; ReadTrace from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::store {

enum class TraceFormat : uint8_t { kMooncake, kAgent, kAzure };
// "mooncake", "agent", "azure".
base::Result<TraceFormat> ParseTraceFormat(std::string_view text);
// By the file's name; kInvalidArgument when it says nothing.
base::Result<TraceFormat> GuessTraceFormat(std::string_view path);
std::string_view Name(TraceFormat format);

// Blocks first, first + 1, ..., first + count - 1.
struct BlockRun {
  uint32_t first = 0;
  uint32_t count = 0;
};

struct TraceRequest {
  double time_s = 0;
  uint32_t input_tokens = 0;
  uint32_t output_tokens = 0;
  uint32_t session = 0;  // of formats with sessions
  uint32_t first_run = 0;
  uint32_t run_count = 0;
};

struct BlockTrace {
  TraceFormat format = TraceFormat::kMooncake;
  uint32_t block_tokens = 0;
  bool has_prefixes = true;
  std::vector<TraceRequest> requests;  // in order of time
  std::vector<BlockRun> runs;
  uint32_t block_bound = 0;  // every block's number lies below
  uint64_t blocks = 0;       // in all prompts
  uint32_t sessions = 0;
  uint32_t dropped_sessions = 0;  // exact repetitions of another one

  std::span<const BlockRun> RunsOf(const TraceRequest& request) const {
    return std::span(runs).subspan(request.first_run, request.run_count);
  }
};

struct TraceOptions {
  // Sessions of the agent format know only their own time: they begin at random (exponential gaps), on
  // average this far apart.
  double session_gap_s = 60;
  uint64_t seed = 1;
};

// kNotFound, kCorrupt with the number of the line.
base::Result<BlockTrace> ReadTrace(const std::string& path, TraceFormat format,
                                   const TraceOptions& options = {});

}  // namespace kvplane::store
