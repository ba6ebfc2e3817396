// LineReader: the lines of a text file, plain or one zstd stream (".zst"), without ever holding the file.
//
// Lines end with LF or CRLF, the last one may end with the file. Bounded: a line above kMaxLineBytes is an
// error, so a file that unpacks to far more than it weighs costs one buffer.
//
// Thread safety: none.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "kvplane/base/status.h"

namespace kvplane::store {

constexpr size_t kMaxLineBytes = 16 << 20;  // the longest line of the known traces has 0.2 MB

class LineReader {
 public:
  // kNotFound: no such file.
  static base::Result<std::unique_ptr<LineReader>> Open(const std::string& path);
  virtual ~LineReader() = default;

  // The next line without its end; nothing after the last one. kCorrupt: damaged or cut zstd data, a line
  // that is too long; kInternal: the file cannot be read on.
  virtual base::Result<std::optional<std::string>> Next() = 0;
};

}  // namespace kvplane::store
