// CHECK macros: for our own bugs, never for input, network or disk bytes (those get a Status).
//
// KVPLANE_CHECK is always on and aborts with file, line and condition; KVPLANE_DCHECK only in builds
// without NDEBUG, for hot loops.
#pragma once

namespace kvplane::base {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace kvplane::base

#define KVPLANE_CHECK(condition)                     \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::kvplane::base::CheckFailed(__FILE__, __LINE__, #condition))

#ifdef NDEBUG
#define KVPLANE_DCHECK(condition) static_cast<void>(sizeof(static_cast<bool>(condition)))
#else
#define KVPLANE_DCHECK(condition) KVPLANE_CHECK(condition)
#endif
