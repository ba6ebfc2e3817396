#include "apps/cli/npy_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "kvplane/base/endian.h"
#include "kvplane/codec/object.h"  // bounds of a geometry

namespace kvplane::cli {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
// NumPy aligns data to 64 bytes and writes headers of 128; this leaves room for any shape.
constexpr size_t kMaxHeaderBytes = 1 << 16;

struct NpyHeader {
  std::string descr;
  bool fortran_order = false;
  std::vector<uint64_t> shape;
  size_t data_at = 0;
};

// The text right after `key` and its colon in the header's dict literal; empty when it is not there.
std::string_view ValueOf(std::string_view dict, std::string_view key) {
  const size_t at = dict.find(key);
  if (at == std::string_view::npos) return {};
  const size_t colon = dict.find(':', at + key.size());
  if (colon == std::string_view::npos) return {};
  const size_t begin = dict.find_first_not_of(' ', colon + 1);
  return begin == std::string_view::npos ? std::string_view{} : dict.substr(begin);
}

base::Result<std::vector<uint64_t>> ParseShape(std::string_view text) {
  const size_t close = text.find(')');
  if (text.empty() || text[0] != '(' || close == std::string_view::npos) {
    return base::Corrupt("npy: no shape in the header");
  }
  std::vector<uint64_t> shape;
  const char* at = text.data() + 1;
  const char* end = text.data() + close;
  while (at < end) {
    if (*at == ' ' || *at == ',') {
      ++at;
      continue;
    }
    uint64_t extent = 0;
    const auto [next, error] = std::from_chars(at, end, extent);
    if (error != std::errc{} || shape.size() == 8) return base::Corrupt("npy: illegal shape in the header");
    shape.push_back(extent);
    at = next;
  }
  return shape;
}

base::Result<NpyHeader> ParseHeader(std::span<const std::byte> file) {
  if (file.size() < 12 || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    return base::Corrupt("npy: the file does not begin with the NumPy magic");
  }
  const auto version = base::LoadLe<uint8_t>(file.data() + 6);
  if (version < 1 || version > 3) return base::Corrupt("npy: format version {}", version);
  const size_t length = version == 1 ? base::LoadLe<uint16_t>(file.data() + 8)
                                     : size_t{base::LoadLe<uint32_t>(file.data() + 8)};
  NpyHeader header;
  header.data_at = (version == 1 ? 10 : 12) + length;
  if (length > kMaxHeaderBytes || header.data_at > file.size()) {
    return base::Corrupt("npy: header of {} bytes in a file of {}", length, file.size());
  }
  const std::string_view dict(reinterpret_cast<const char*>(file.data()) + header.data_at - length, length);
  const std::string_view descr = ValueOf(dict, "'descr'");
  header.descr = descr.size() >= 5 ? descr.substr(0, 5) : descr;
  header.fortran_order = ValueOf(dict, "'fortran_order'").starts_with("True");
  KVPLANE_ASSIGN_OR_RETURN(header.shape, ParseShape(ValueOf(dict, "'shape'")));
  return header;
}

// The geometry of a legal shape, with every extent inside the object format's bounds.
base::Result<RawKv> KvOfShape(const std::vector<uint64_t>& shape) {
  if (shape.size() != 5 || shape[1] != 2) {
    return base::InvalidArgument("npy: shape ({}) is not [layers, 2, tokens, kv_heads, head_dim]",
                                 fmt::join(shape, ", "));
  }
  const uint64_t bounds[] = {codec::kMaxObjectLayers, 2, codec::kMaxObjectTokens, codec::kMaxTileHeads,
                             codec::kMaxTileHeadDim};
  for (size_t i = 0; i < 5; ++i) {
    if (shape[i] < 1 || shape[i] > bounds[i]) {
      return base::InvalidArgument("npy: extent {} is {}, legal are 1..{}", i, shape[i], bounds[i]);
    }
  }
  RawKv kv;
  kv.geometry = {.layers = static_cast<uint32_t>(shape[0]),
                 .kv_heads = static_cast<uint32_t>(shape[3]),
                 .head_dim = static_cast<uint32_t>(shape[4])};
  kv.tokens = static_cast<uint32_t>(shape[2]);
  return kv;
}

uint16_t ElementAt(const std::byte* data, size_t index, const std::string& descr) {
  if (descr == "'<f4'") return tensor::FloatToBf16(base::LoadLe<float>(data + 4 * index));
  const auto bits = base::LoadLe<uint16_t>(data + 2 * index);
  return descr == "'<f2'" ? tensor::FloatToBf16(tensor::F16ToFloat(bits)) : bits;
}

}  // namespace

RawKv RawKv::Make(const tensor::KvGeometry& geometry, uint32_t tokens) {
  RawKv kv;
  kv.geometry = geometry;
  kv.tokens = tokens;
  kv.values.resize(geometry.layers * kv.page_format().page_elements);
  return kv;
}

tensor::PageFormat RawKv::page_format() const {
  tensor::PageFormat format;
  format.block_tokens = tokens;
  format.head_stride = geometry.head_dim;
  format.token_stride = size_t{geometry.kv_heads} * geometry.head_dim;
  format.side_stride = tokens * format.token_stride;
  format.page_elements = 2 * format.side_stride;
  return format;
}

base::Result<RawKv> ReadNpy(const std::string& path) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::byte> file, ReadFileBytes(path));
  const base::Result<NpyHeader> header = ParseHeader(file);
  if (!header.ok()) return header.status().Annotate(path);
  if (header->fortran_order) return base::InvalidArgument("{}: Fortran order; save it in C order", path);
  const bool wide = header->descr == "'<f4'";
  if (!wide && header->descr != "'<u2'" && header->descr != "'<f2'") {
    return base::InvalidArgument("{}: elements {}; use '<u2' (bf16 patterns), '<f2' or '<f4'", path,
                                 header->descr);
  }
  base::Result<RawKv> shaped = KvOfShape(header->shape);
  if (!shaped.ok()) return shaped.status().Annotate(path);
  const uint64_t count =
      shaped->geometry.layers * uint64_t{2} * shaped->tokens * shaped->geometry.values_per_token_side();
  if (file.size() - header->data_at != count * (wide ? 4 : 2)) {
    return base::Corrupt("{}: {} bytes of data for {} elements", path, file.size() - header->data_at, count);
  }
  RawKv kv = RawKv::Make(shaped->geometry, shaped->tokens);
  const std::byte* data = file.data() + header->data_at;
  for (size_t i = 0; i < kv.values.size(); ++i) kv.values[i] = ElementAt(data, i, header->descr);
  return kv;
}

base::Status WriteNpy(const std::string& path, const RawKv& kv, NpyElement element) {
  const bool wide = element == NpyElement::kFloat32;
  std::string dict = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}, 2, {}, {}, {}), }}",
                                 wide ? "<f4" : "<u2", kv.geometry.layers, kv.tokens, kv.geometry.kv_heads,
                                 kv.geometry.head_dim);
  while ((10 + dict.size() + 1) % 64 != 0) dict += ' ';
  dict += '\n';
  std::vector<std::byte> file;
  base::ByteWriter out(file);
  out.PutBytes(std::as_bytes(std::span(kMagic.data(), kMagic.size())));
  out.Put(uint16_t{1});  // version 1.0
  out.PutString(dict);
  if (!wide) {
    out.PutBytes(std::as_bytes(std::span(kv.values)));
  } else {
    const size_t at = file.size();
    file.resize(at + kv.values.size() * sizeof(float));
    for (size_t i = 0; i < kv.values.size(); ++i) {
      base::StoreLe(file.data() + at + i * sizeof(float), tensor::Bf16ToFloat(kv.values[i]));
    }
  }
  return WriteFileBytes(path, file);
}

base::Result<std::vector<std::byte>> ReadFileBytes(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return base::NotFound("{}: no such file", path);
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return base::Unavailable("{}: {}", path, error.message());
  std::ifstream file(path, std::ios::binary);
  std::vector<std::byte> bytes(size);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!file || static_cast<uintmax_t>(file.gcount()) != size) {
    return base::Unavailable("{}: cannot be read", path);
  }
  return bytes;
}

base::Status WriteFileBytes(const std::string& path, std::span<const std::byte> bytes) {
  const std::string temporary = path + ".partial";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::error_code error;
  if (!file) {
    std::filesystem::remove(temporary, error);
    return base::Unavailable("{}: cannot be written", path);
  }
  std::filesystem::rename(temporary, path, error);
  if (error) return base::Unavailable("{}: {}", path, error.message());
  return base::Status::Ok();
}

}  // namespace kvplane::cli
