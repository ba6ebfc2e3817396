// Little-endian loads and stores for wire and file formats, bounded reads over a byte span.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::base {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "formats are little-endian; add byte swaps for this CPU");

template <typename T>
T LoadLe(const std::byte* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T>
void StoreLe(std::byte* to, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(to, &value, sizeof(T));
}

// Appends fixed-width little-endian fields to a growing buffer.
class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>& out) : out_(out) {}

  template <typename T>
  void Put(T value) {
    const size_t at = out_.size();
    out_.resize(at + sizeof(T));
    StoreLe(out_.data() + at, value);
  }
  void PutBytes(std::span<const std::byte> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  // u16 length, then the bytes. Longer than 65,535: the caller's bug.
  void PutString(std::string_view text) {
    Put(static_cast<uint16_t>(text.size()));
    PutBytes(std::as_bytes(std::span(text.data(), text.size())));
  }

 private:
  std::vector<std::byte>& out_;
};

// Reads fixed-width little-endian fields; every read is bounds-checked. After the first short read all
// further reads fail and status() names the field, so a parser may check once at its end before it uses the
// values.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T Get(std::string_view field) {
    if (!Need(sizeof(T), field)) return T{};
    const T value = LoadLe<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return value;
  }
  std::span<const std::byte> GetBytes(size_t count, std::string_view field) {
    if (!Need(count, field)) return {};
    const auto view = bytes_.subspan(at_, count);
    at_ += count;
    return view;
  }
  std::string GetString(std::string_view field) {
    const auto length = Get<uint16_t>(field);
    const auto view = GetBytes(length, field);
    return std::string(reinterpret_cast<const char*>(view.data()), view.size());
  }

  size_t position() const { return at_; }
  size_t remaining() const { return bytes_.size() - at_; }
  const Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

 private:
  bool Need(size_t count, std::string_view field) {
    if (!status_.ok()) return false;
    if (count <= remaining()) return true;
    status_ = Corrupt("{} needs {} bytes at offset {}, {} left", field, count, at_, remaining());
    return false;
  }

  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  Status status_;
};

}  // namespace kvplane::base
