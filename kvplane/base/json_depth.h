// A bound on how deep untrusted JSON nests, checked on the text before it is parsed.
//
// Why: copying, comparing and writing JSON values recurse, one stack frame per level, in the JSON library and
// in code of our own. A few hundred kilobytes of '[' would end the process; no document we read needs more
// than ten levels.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string_view>

namespace kvplane::base {

// Far above what a document needs, far below what a stack of 8 MiB bears.
inline constexpr size_t kMaxJsonDepth = 128;

// True when arrays and objects nest deeper than `limit`. Exact for JSON; of other text only the part before
// its first error counts, and the parser refuses that text anyway. One pass, no memory.
bool NestsTooDeep(std::string_view json, size_t limit = kMaxJsonDepth);

}  // namespace kvplane::base
