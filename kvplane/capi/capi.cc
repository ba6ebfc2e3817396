// The C interface over codec. Every entry catches: no exception crosses it, running out of memory included.
#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/capi/kvplane.h"
#include "kvplane/codec/analyze.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/profile_match.h"

struct kvp_profile {
  std::shared_ptr<const kvplane::codec::ModelProfile> profile;
};

namespace kvplane::capi {
namespace {

struct CodeName {
  base::StatusCode status;
  int code;
  const char* text;
};
constexpr CodeName kCodes[] = {
    {base::StatusCode::kOk, KVP_OK, "success"},
    {base::StatusCode::kInvalidArgument, KVP_INVALID_ARGUMENT, "invalid argument"},
    {base::StatusCode::kNotFound, KVP_NOT_FOUND, "not found"},
    {base::StatusCode::kCorrupt, KVP_CORRUPT, "corrupt data"},
    {base::StatusCode::kUnavailable, KVP_UNAVAILABLE, "cannot be read"},
    {base::StatusCode::kResourceExhausted, KVP_RESOURCE_EXHAUSTED, "out of memory or beyond a bound"},
    {base::StatusCode::kUnimplemented, KVP_UNIMPLEMENTED, "not supported by this version"},
    {base::StatusCode::kFailedPrecondition, KVP_FAILED_PRECONDITION,
     "a profile is missing or foreign, or a lossy object was refused"},
    {base::StatusCode::kInternal, KVP_INTERNAL, "internal error"},
};

int CodeOf(base::StatusCode status) {
  const auto at = std::find_if(std::begin(kCodes), std::end(kCodes),
                               [status](const CodeName& row) { return row.status == status; });
  return at == std::end(kCodes) ? KVP_INTERNAL : at->code;
}

void Write(std::string_view text, kvp_message* message) {
  if (message == nullptr) return;
  const size_t length = std::min(text.size(), sizeof(message->text) - 1);
  std::memcpy(message->text, text.data(), length);
  message->text[length] = '\0';
}

// Runs the body of an entry: a Status, or KVP_BUFFER_TOO_SMALL through `small`.
template <typename Body>
int Guard(kvp_message* message, const Body& body) noexcept {
  try {
    bool small = false;
    const base::Status status = body(small);
    Write(status.message(), message);
    return small ? static_cast<int>(KVP_BUFFER_TOO_SMALL) : CodeOf(status.code());
  } catch (const std::bad_alloc&) {
    Write("out of memory", message);
    return KVP_RESOURCE_EXHAUSTED;
  } catch (const std::exception& error) {
    Write(error.what(), message);
    return KVP_INTERNAL;
  } catch (...) {
    Write("unknown exception", message);
    return KVP_INTERNAL;
  }
}

base::Status Small(bool& small, std::string_view what, uint64_t needed, uint64_t given) {
  small = true;
  return base::ResourceExhausted("{}: {} bytes are needed, {} are there", what, needed, given);
}

// What a struct had in its first version: callers built against that one stay welcome when it has grown.
// These numbers never change; the assertions go as fields come.
template <typename Struct>
constexpr size_t kFirstBytes = 0;
template <>
constexpr size_t kFirstBytes<kvp_layout> = 56;
template <>
constexpr size_t kFirstBytes<kvp_encode_options> = 112;
template <>
constexpr size_t kFirstBytes<kvp_decode_options> = 24;
template <>
constexpr size_t kFirstBytes<kvp_object> = 2240;
template <>
constexpr size_t kFirstBytes<kvp_estimate_result> = 72;
static_assert(sizeof(void*) != 8 || (kFirstBytes<kvp_layout> == sizeof(kvp_layout) &&
                                     kFirstBytes<kvp_encode_options> == sizeof(kvp_encode_options) &&
                                     kFirstBytes<kvp_decode_options> == sizeof(kvp_decode_options) &&
                                     kFirstBytes<kvp_object> == sizeof(kvp_object) &&
                                     kFirstBytes<kvp_estimate_result> == sizeof(kvp_estimate_result)));

template <typename Struct>
base::Status CheckSize(const Struct* caller, std::string_view what) {
  if (caller == nullptr) return base::InvalidArgument("{} is null", what);
  if (caller->struct_bytes >= kFirstBytes<Struct>) return base::Status::Ok();
  return base::InvalidArgument("{}: struct_bytes is {}, not sizeof of it ({})", what, caller->struct_bytes,
                               sizeof(Struct));
}

// A copy of a caller's struct with the fields that its version lacks zero. kInvalidArgument: null, or a size
// that no version of it has had.
template <typename Struct>
base::Result<Struct> Copy(const Struct* from, std::string_view what) {
  KVPLANE_RETURN_IF_ERROR(CheckSize(from, what));
  Struct copy{};
  std::memcpy(&copy, from, std::min<size_t>(from->struct_bytes, sizeof(Struct)));
  return copy;
}

template <typename Struct>
base::Result<Struct> CopyOr(const Struct* from, const Struct& otherwise, std::string_view what) {
  if (from == nullptr) return otherwise;
  return Copy(from, what);
}

// Gives a result struct back in the size that the caller knows.
template <typename Struct>
base::Status GiveBack(Struct result, Struct* to, std::string_view what) {
  KVPLANE_RETURN_IF_ERROR(CheckSize(to, what));
  result.struct_bytes = to->struct_bytes;
  std::memcpy(to, &result, std::min<size_t>(to->struct_bytes, sizeof(Struct)));
  return base::Status::Ok();
}

// ---- layouts ----

struct Layout {
  tensor::KvGeometry geometry;
  uint32_t tokens = 0;
  uint64_t layer_stride = 0;
  tensor::PageFormat format;  // a layer is one page
  uint64_t elements = 0;      // from the first to behind the last
};

bool AddProduct(uint64_t& sum, uint64_t count, uint64_t stride) {
  uint64_t product = 0;
  return !__builtin_mul_overflow(count, stride, &product) && !__builtin_add_overflow(sum, product, &sum);
}

// Elements lie apart when every stride steps over all that lies within smaller ones: rows in heads in tokens,
// or in whatever order the caller has them. Requires: the layout's reach fits 64 bits.
base::Status CheckApart(const kvp_layout& in) {
  struct Dimension {
    uint64_t stride;
    uint64_t count;
    std::string_view name;
  };
  std::array<Dimension, 4> dimensions = {{{in.head_stride, in.kv_heads, "head_stride"},
                                          {in.token_stride, in.tokens, "token_stride"},
                                          {in.side_stride, 2, "side_stride"},
                                          {in.layer_stride, in.layers, "layer_stride"}}};
  std::sort(dimensions.begin(), dimensions.end(),
            [](const Dimension& a, const Dimension& b) { return a.stride < b.stride; });
  uint64_t reach = in.head_dim;
  for (const Dimension& dimension : dimensions) {
    if (dimension.count == 1) continue;
    if (dimension.stride < reach) {
      return base::InvalidArgument("layout: elements overlap, a {} of {} steps into {} elements",
                                   dimension.name, dimension.stride, reach);
    }
    reach += (dimension.count - 1) * dimension.stride;
  }
  return base::Status::Ok();
}

base::Result<Layout> ReadLayout(const kvp_layout* from) {
  KVPLANE_ASSIGN_OR_RETURN(kvp_layout in, Copy(from, "layout"));
  if (in.reserved != 0) return base::InvalidArgument("layout: reserved is not 0");
  Layout out;
  out.geometry = {in.layers, in.kv_heads, in.head_dim, tensor::DType::kBf16};
  out.tokens = in.tokens;
  codec::ObjectInfo shape;
  shape.geometry = out.geometry;
  shape.tokens = in.tokens;
  KVPLANE_RETURN_IF_ERROR(shape.Validate());
  if (in.layer_stride == 0 && in.side_stride == 0 && in.token_stride == 0 && in.head_stride == 0) {
    in.head_stride = in.head_dim;
    in.token_stride = out.geometry.values_per_token_side();
    in.side_stride = in.tokens * in.token_stride;
    in.layer_stride = 2 * in.side_stride;
  }
  uint64_t layer_elements = in.head_dim;
  bool fits = AddProduct(layer_elements, 1, in.side_stride) &&
              AddProduct(layer_elements, in.tokens - 1, in.token_stride) &&
              AddProduct(layer_elements, in.kv_heads - 1, in.head_stride);
  out.elements = layer_elements;
  fits = fits && AddProduct(out.elements, in.layers - 1, in.layer_stride);
  if (!fits || out.elements > UINT64_MAX / sizeof(uint16_t)) {
    return base::InvalidArgument("layout: strides beyond the address space");
  }
  if (in.head_stride == 0 || in.token_stride == 0 || in.side_stride == 0 || in.layer_stride == 0) {
    return base::InvalidArgument("layout: a stride is 0 and another is not");
  }
  KVPLANE_RETURN_IF_ERROR(CheckApart(in));
  out.layer_stride = in.layer_stride;
  out.format = {.block_tokens = in.tokens,
                .side_stride = in.side_stride,
                .head_stride = in.head_stride,
                .token_stride = in.token_stride,
                .page_elements = layer_elements};
  return out;
}

base::Status CheckKv(const Layout& layout, const uint16_t* kv, uint64_t kv_elements) {
  if (kv == nullptr) return base::InvalidArgument("kv is null");
  if (kv_elements >= layout.elements) return base::Status::Ok();
  return base::InvalidArgument("kv has {} elements, its layout reaches over {}", kv_elements,
                               layout.elements);
}

// The layers of a layout as pages. Encoding only reads through them.
class LayerPagesOf {
 public:
  LayerPagesOf(const Layout& layout, uint16_t* kv) : bases_(layout.geometry.layers) {
    for (uint32_t layer = 0; layer < layout.geometry.layers; ++layer) {
      bases_[layer] = kv + layer * layout.layer_stride;
    }
    for (uint16_t*& page : bases_) pages_.push_back({std::span(&page, 1), layout.format});
  }
  LayerPagesOf(const LayerPagesOf&) = delete;
  LayerPagesOf& operator=(const LayerPagesOf&) = delete;

  std::span<const tensor::LayerPages> layers() const { return pages_; }

 private:
  std::vector<uint16_t*> bases_;
  std::vector<tensor::LayerPages> pages_;
};

// ---- encoding ----

struct Encoding {
  Layout layout;
  codec::ObjectInfo info;
  std::shared_ptr<const codec::ModelProfile> profile;
};

template <size_t kBytes>
std::array<std::byte, kBytes> BytesOf(const uint8_t (&from)[kBytes]) {
  std::array<std::byte, kBytes> to;
  std::memcpy(to.data(), from, kBytes);
  return to;
}

template <size_t kBytes>
void PutBytes(const std::array<std::byte, kBytes>& from, uint8_t (&to)[kBytes]) {
  std::memcpy(to, from.data(), kBytes);
}

base::Result<Encoding> ReadEncoding(const kvp_layout* layout, const kvp_encode_options* options) {
  Encoding out;
  KVPLANE_ASSIGN_OR_RETURN(out.layout, ReadLayout(layout));
  KVPLANE_ASSIGN_OR_RETURN(const kvp_encode_options in, CopyOr(options, kvp_encode_options{}, "options"));
  if (in.reserved[0] != 0 || in.reserved[1] != 0) {
    return base::InvalidArgument("options: reserved is not 0");
  }
  codec::ObjectInfo& info = out.info;
  info.geometry = out.layout.geometry;
  info.tokens = out.layout.tokens;
  info.first_token = in.first_token;
  info.head_group = in.head_group;
  info.quality[0] = in.quality[0];
  info.quality[1] = in.quality[1];
  info.identity.model_fingerprint = BytesOf(in.model_fingerprint);
  info.identity.token_chain = BytesOf(in.token_chain);
  info.identity.rope = BytesOf(in.rope);
  if (in.strategy != nullptr) {
    // One byte more than is legal: a text without an end is not read to where it may be.
    const std::string_view text(in.strategy, strnlen(in.strategy, codec::kMaxStrategyTextBytes + 1));
    KVPLANE_ASSIGN_OR_RETURN(info.strategy, codec::Strategy::Parse(text));
  }
  if (in.profile != nullptr && info.strategy.needs_profile()) {
    out.profile = in.profile->profile;
    KVPLANE_RETURN_IF_ERROR(
        codec::CheckProfileMatches(*out.profile, info.geometry, info.identity.model_fingerprint));
  }
  KVPLANE_RETURN_IF_ERROR(info.Validate());
  return out;
}

base::Status Encode(const kvp_layout* layout, const uint16_t* kv, uint64_t kv_elements,
                    const kvp_encode_options* options, std::span<std::byte> out, size_t* object_bytes,
                    bool& small) {
  if (object_bytes == nullptr) return base::InvalidArgument("object_bytes is null");
  *object_bytes = 0;
  KVPLANE_ASSIGN_OR_RETURN(const Encoding encoding, ReadEncoding(layout, options));
  KVPLANE_ASSIGN_OR_RETURN(codec::ObjectWriter writer,
                           codec::ObjectWriter::Create(encoding.info, encoding.profile));
  if (out.data() == nullptr) {
    *object_bytes = codec::MaxObjectBytes(encoding.info);
    return base::Status::Ok();
  }
  KVPLANE_RETURN_IF_ERROR(CheckKv(encoding.layout, kv, kv_elements));
  const LayerPagesOf pages(encoding.layout, const_cast<uint16_t*>(kv));
  codec::Workspace workspace;
  for (const tensor::LayerPages& layer : pages.layers()) {
    KVPLANE_RETURN_IF_ERROR(writer.AppendLayer(layer, workspace));
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::byte> object, writer.Finish());
  *object_bytes = object.size();
  if (object.size() > out.size()) return Small(small, "object", object.size(), out.size());
  std::copy(object.begin(), object.end(), out.begin());
  return base::Status::Ok();
}

base::Status Estimate(const kvp_layout* layout, const uint16_t* kv, uint64_t kv_elements,
                      const kvp_encode_options* options, uint32_t tiles_per_side,
                      kvp_estimate_result* result) {
  KVPLANE_ASSIGN_OR_RETURN(const Encoding encoding, ReadEncoding(layout, options));
  KVPLANE_RETURN_IF_ERROR(CheckKv(encoding.layout, kv, kv_elements));
  const LayerPagesOf pages(encoding.layout, const_cast<uint16_t*>(kv));
  codec::Workspace workspace;
  codec::AnalyzeOptions analyze;
  if (tiles_per_side != 0) analyze.tiles_per_side = tiles_per_side;
  KVPLANE_ASSIGN_OR_RETURN(const codec::Analysis found, codec::Analyze(encoding.info, pages.layers(),
                                                                       encoding.profile, workspace, analyze));
  kvp_estimate_result out{};
  out.tiles = found.tiles;
  out.tiles_sampled = found.tiles_sampled;
  out.object_bytes = found.object_bytes;
  out.object_bytes_error = found.object_bytes_error;
  out.least_bits_per_value = found.least_bits_per_value;
  out.greatest_bits_per_value = found.greatest_bits_per_value;
  out.encode_cpu_s = found.encode_cpu_s;
  out.decode_cpu_s = found.decode_cpu_s;
  return GiveBack(out, result, "result");
}

// ---- objects ----

void PutText(std::string_view from, char (&to)[KVP_STRATEGY_BYTES]) {
  std::copy_n(from.data(), std::min(from.size(), sizeof(to) - 1), to);
}

kvp_object Describe(const codec::ObjectReader& reader) {
  const codec::ObjectInfo& info = reader.info();
  kvp_object out{};
  out.format_major = codec::kObjectMajor;
  out.format_minor = reader.minor_version();
  out.layers = info.geometry.layers;
  out.tokens = info.tokens;
  out.kv_heads = info.geometry.kv_heads;
  out.head_dim = info.geometry.head_dim;
  out.head_group = info.heads_per_tile();
  out.first_token = info.first_token;
  out.lossy = info.strategy.lossy() ? 1 : 0;
  out.needs_profile = info.strategy.needs_profile() ? 1 : 0;
  out.quality[0] = info.quality[0];
  out.quality[1] = info.quality[1];
  out.raw_bytes = info.raw_bytes();
  out.object_bytes = reader.object_bytes();
  out.prefix_bytes = reader.prefix_bytes();
  PutBytes(info.identity.model_fingerprint, out.model_fingerprint);
  PutBytes(info.identity.token_chain, out.token_chain);
  PutBytes(info.identity.rope, out.rope);
  PutBytes(info.identity.profile, out.profile);
  PutBytes(info.strategy.id().bytes, out.strategy_id);
  PutText(info.strategy.side(tensor::Side::kKey).ToString(), out.key_strategy);
  PutText(info.strategy.side(tensor::Side::kValue).ToString(), out.value_strategy);
  return out;
}

base::Status ObjectInfoOf(std::span<const std::byte> object, kvp_object* info, bool& small) {
  if (object.data() == nullptr) return base::InvalidArgument("object is null");
  kvp_object out{};
  KVPLANE_RETURN_IF_ERROR(GiveBack(out, info, "info"));
  if (object.size() < codec::kObjectHeaderBytes) {
    return Small(small, "header of the object", codec::kObjectHeaderBytes, object.size());
  }
  KVPLANE_ASSIGN_OR_RETURN(const size_t prefix, codec::ObjectReader::PrefixBytes(object));
  if (object.size() < prefix) {
    info->prefix_bytes = prefix;
    return Small(small, "prefix of the object", prefix, object.size());
  }
  KVPLANE_ASSIGN_OR_RETURN(const codec::ObjectReader reader, codec::ObjectReader::Open(object));
  return GiveBack(Describe(reader), info, "info");
}

base::Status Decode(std::span<const std::byte> object, const kvp_decode_options* options,
                    const kvp_layout* layout, uint16_t* kv, uint64_t kv_elements) {
  if (object.data() == nullptr) return base::InvalidArgument("object is null");
  KVPLANE_ASSIGN_OR_RETURN(const kvp_decode_options in, CopyOr(options, kvp_decode_options{}, "options"));
  KVPLANE_ASSIGN_OR_RETURN(const Layout out, ReadLayout(layout));
  KVPLANE_RETURN_IF_ERROR(CheckKv(out, kv, kv_elements));
  codec::ProfileSet profiles;
  if (in.profiles == nullptr && in.profile_count > 0) return base::InvalidArgument("profiles is null");
  for (size_t i = 0; i < in.profile_count; ++i) {
    if (in.profiles[i] == nullptr) return base::InvalidArgument("profiles[{}] is null", i);
    profiles.Add(in.profiles[i]->profile);
  }
  KVPLANE_ASSIGN_OR_RETURN(
      const codec::ObjectReader reader,
      codec::ObjectReader::Open(object, {.accept_lossy = in.strict == 0, .profiles = &profiles}));
  const codec::ObjectInfo& info = reader.info();
  if (info.geometry != out.geometry || info.tokens != out.tokens) {
    return base::InvalidArgument("the object holds [{}, 2, {}, {}, {}], the layout [{}, 2, {}, {}, {}]",
                                 info.geometry.layers, info.tokens, info.geometry.kv_heads,
                                 info.geometry.head_dim, out.geometry.layers, out.tokens,
                                 out.geometry.kv_heads, out.geometry.head_dim);
  }
  const LayerPagesOf pages(out, kv);
  codec::Workspace workspace;
  return reader.DecodeAll(object, workspace, pages.layers());
}

// ---- profiles ----

base::Result<std::vector<std::byte>> ReadFile(const char* path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return base::NotFound("{}: no such file", path);
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return base::Unavailable("{}: {}", path, error.message());
  if (size > codec::kMaxProfileBytes) {
    return base::ResourceExhausted("{}: {} bytes, profiles have at most {}", path, size,
                                   codec::kMaxProfileBytes);
  }
  std::vector<std::byte> bytes(size);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size))) {
    return base::Unavailable("{}: cannot be read", path);
  }
  return bytes;
}

base::Status ParseProfile(std::span<const std::byte> bytes, kvp_profile** out) {
  if (out == nullptr) return base::InvalidArgument("out is null");
  KVPLANE_ASSIGN_OR_RETURN(std::shared_ptr<const codec::ModelProfile> profile,
                           codec::ModelProfile::Parse(bytes));
  *out = new kvp_profile{std::move(profile)};
  return base::Status::Ok();
}

std::span<const std::byte> BytesAt(const void* at, size_t size) {
  return {static_cast<const std::byte*>(at), size};
}

}  // namespace
}  // namespace kvplane::capi

namespace base = kvplane::base;
namespace codec = kvplane::codec;
namespace capi = kvplane::capi;

uint32_t kvp_abi_version(void) { return KVP_ABI_VERSION; }

const char* kvp_version(void) { return KVPLANE_VERSION; }

const char* kvp_strerror(int code) {
  if (code == KVP_BUFFER_TOO_SMALL) return "the buffer is too small";
  const auto at = std::find_if(std::begin(capi::kCodes), std::end(capi::kCodes),
                               [code](const capi::CodeName& row) { return row.code == code; });
  return at == std::end(capi::kCodes) ? "unknown code" : at->text;
}

int kvp_profile_load(const char* path, kvp_profile** out, kvp_message* message) {
  return capi::Guard(message, [&](bool&) -> base::Status {
    if (path == nullptr) return base::InvalidArgument("path is null");
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, capi::ReadFile(path));
    return capi::ParseProfile(bytes, out).Annotate(path);
  });
}

int kvp_profile_parse(const void* bytes, size_t size, kvp_profile** out, kvp_message* message) {
  return capi::Guard(message, [&](bool&) -> base::Status {
    if (bytes == nullptr) return base::InvalidArgument("bytes is null");
    return capi::ParseProfile(capi::BytesAt(bytes, size), out);
  });
}

void kvp_profile_free(kvp_profile* profile) { delete profile; }

int kvp_profile_id(const kvp_profile* profile, uint8_t id[16], kvp_message* message) {
  return capi::Guard(message, [&](bool&) -> base::Status {
    if (profile == nullptr || id == nullptr) return base::InvalidArgument("profile or id is null");
    const codec::ProfileId& from = profile->profile->id();
    std::memcpy(id, from.bytes.data(), from.bytes.size());
    return base::Status::Ok();
  });
}

int kvp_layout_elements(const kvp_layout* layout, uint64_t* elements, kvp_message* message) {
  return capi::Guard(message, [&](bool&) -> base::Status {
    if (elements == nullptr) return base::InvalidArgument("elements is null");
    KVPLANE_ASSIGN_OR_RETURN(const capi::Layout read, capi::ReadLayout(layout));
    *elements = read.elements;
    return base::Status::Ok();
  });
}

int kvp_encode(const kvp_layout* layout, const uint16_t* kv, uint64_t kv_elements,
               const kvp_encode_options* options, void* object, size_t capacity, size_t* object_bytes,
               kvp_message* message) {
  return capi::Guard(message, [&](bool& small) {
    return capi::Encode(layout, kv, kv_elements, options, {static_cast<std::byte*>(object), capacity},
                        object_bytes, small);
  });
}

int kvp_estimate(const kvp_layout* layout, const uint16_t* kv, uint64_t kv_elements,
                 const kvp_encode_options* options, uint32_t tiles_per_side, kvp_estimate_result* result,
                 kvp_message* message) {
  return capi::Guard(message, [&](bool&) {
    return capi::Estimate(layout, kv, kv_elements, options, tiles_per_side, result);
  });
}

int kvp_object_info(const void* object, size_t size, kvp_object* info, kvp_message* message) {
  return capi::Guard(
      message, [&](bool& small) { return capi::ObjectInfoOf(capi::BytesAt(object, size), info, small); });
}

int kvp_decode(const void* object, size_t size, const kvp_decode_options* options, const kvp_layout* layout,
               uint16_t* kv, uint64_t kv_elements, kvp_message* message) {
  return capi::Guard(message, [&](bool&) {
    return capi::Decode(capi::BytesAt(object, size), options, layout, kv, kv_elements);
  });
}
