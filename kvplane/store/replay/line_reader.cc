#include "kvplane/store/replay/line_reader.h"

#include <zstd.h>

#include <algorithm>
#include <fstream>
#include <utility>
#include <vector>

namespace kvplane::store {
namespace {

constexpr size_t kChunkBytes = 1 << 18;

// Bytes as they are in the file.
class PlainSource {
 public:
  explicit PlainSource(std::ifstream file) : file_(std::move(file)) {}

  // Fills `out`; returns how many bytes, 0 at the end.
  base::Result<size_t> Read(std::vector<char>& out) {
    file_.read(out.data(), static_cast<std::streamsize>(out.size()));
    if (file_.bad()) return base::Internal("the file cannot be read on");
    return static_cast<size_t>(file_.gcount());
  }

 private:
  std::ifstream file_;
};

class ZstdSource {
 public:
  explicit ZstdSource(std::ifstream file)
      : file_(std::move(file)), packed_(kChunkBytes), stream_(ZSTD_createDStream()) {}

  base::Result<size_t> Read(std::vector<char>& out) {
    ZSTD_outBuffer to{.dst = out.data(), .size = out.size(), .pos = 0};
    while (to.pos < to.size) {
      if (from_.pos == from_.size) {
        KVPLANE_ASSIGN_OR_RETURN(const size_t bytes, file_.Read(packed_));
        from_ = {.src = packed_.data(), .size = bytes, .pos = 0};
        if (bytes == 0) {
          if (expects_more_) return base::Corrupt("zstd data ends too early");
          break;
        }
      }
      const size_t left = ZSTD_decompressStream(stream_.get(), &to, &from_);
      if (ZSTD_isError(left) != 0) return base::Corrupt("zstd: {}", ZSTD_getErrorName(left));
      expects_more_ = left != 0;
    }
    return to.pos;
  }

 private:
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  PlainSource file_;
  std::vector<char> packed_;
  std::unique_ptr<ZSTD_DStream, Free> stream_;
  ZSTD_inBuffer from_{.src = nullptr, .size = 0, .pos = 0};
  bool expects_more_ = false;
};

template <typename Source>
class BufferedLines final : public LineReader {
 public:
  explicit BufferedLines(std::ifstream file) : source_(std::move(file)), buffer_(kChunkBytes) {}

  base::Result<std::optional<std::string>> Next() override {
    std::string line;
    for (;;) {
      const auto begin = buffer_.begin() + static_cast<std::ptrdiff_t>(at_);
      const auto end = buffer_.begin() + static_cast<std::ptrdiff_t>(filled_);
      const auto newline = std::find(begin, end, '\n');
      line.append(begin, newline);
      if (line.size() > kMaxLineBytes) return base::Corrupt("a line of more than {} bytes", kMaxLineBytes);
      at_ = static_cast<size_t>(newline - buffer_.begin());
      if (newline != end) {
        ++at_;
        break;
      }
      KVPLANE_ASSIGN_OR_RETURN(filled_, source_.Read(buffer_));
      at_ = 0;
      if (filled_ > 0) continue;
      if (line.empty()) return std::optional<std::string>();
      break;
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return std::optional<std::string>(std::move(line));
  }

 private:
  Source source_;
  std::vector<char> buffer_;
  size_t at_ = 0;
  size_t filled_ = 0;
};

}  // namespace

base::Result<std::unique_ptr<LineReader>> LineReader::Open(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return base::NotFound("cannot open {}", path);
  if (path.ends_with(".zst")) {
    return std::unique_ptr<LineReader>(std::make_unique<BufferedLines<ZstdSource>>(std::move(file)));
  }
  return std::unique_ptr<LineReader>(std::make_unique<BufferedLines<PlainSource>>(std::move(file)));
}

}  // namespace kvplane::store
