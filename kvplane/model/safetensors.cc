#include "kvplane/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "kvplane/base/endian.h"
#include "kvplane/base/json_depth.h"
#include "kvplane/model/json_file.h"

namespace kvplane::model {
namespace {

using nlohmann::json;

struct DTypeRow {
  std::string_view name;
  uint32_t bytes;
  std::optional<tensor::DType> dtype;
};
constexpr std::array<DTypeRow, 14> kDTypes = {{{"BF16", 2, tensor::DType::kBf16},
                                               {"F16", 2, tensor::DType::kF16},
                                               {"F32", 4, tensor::DType::kF32},
                                               {"F64", 8, std::nullopt},
                                               {"I64", 8, std::nullopt},
                                               {"U64", 8, std::nullopt},
                                               {"I32", 4, std::nullopt},
                                               {"U32", 4, std::nullopt},
                                               {"I16", 2, std::nullopt},
                                               {"U16", 2, std::nullopt},
                                               {"I8", 1, std::nullopt},
                                               {"U8", 1, std::nullopt},
                                               {"BOOL", 1, std::nullopt},
                                               {"F8_E4M3", 1, std::nullopt}}};

const DTypeRow* FindDType(std::string_view name) {
  const auto row =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& r) { return r.name == name; });
  return row == kDTypes.end() ? nullptr : &*row;
}

// Parses the header; a name given twice is refused (the JSON library would keep the last).
base::Result<json> ParseHeader(std::string_view text, const std::string& file) {
  std::set<std::string> names;
  std::string twice;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.insert(name).second) twice = name;
    }
    return true;
  };
  if (base::NestsTooDeep(text)) return base::Corrupt("{}: the header is nested too deep", file);
  json header = json::parse(text, watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) {
    return base::Corrupt("{}: the header is not a JSON object", file);
  }
  if (!twice.empty()) return base::Corrupt("{}: tensor '{}' is listed twice", file, twice);
  return header;
}

bool IsListOfUnsigned(const json* list) {
  return list != nullptr && list->is_array() &&
         std::all_of(list->begin(), list->end(), [](const json& x) { return x.is_number_unsigned(); });
}

// One entry of the header, checked against the data that follows it.
base::Result<StoredTensor> ReadEntry(const json& entry, std::span<const std::byte> data,
                                     std::string_view where) {
  StoredTensor tensor;
  KVPLANE_ASSIGN_OR_RETURN(tensor.dtype_name, StringField(entry, "dtype", where));
  const DTypeRow* row = FindDType(tensor.dtype_name);
  if (row == nullptr) return base::Unimplemented("{}: unknown dtype '{}'", where, tensor.dtype_name);
  tensor.dtype = row->dtype;
  const json* shape = FindField(entry, "shape");
  if (!IsListOfUnsigned(shape) || shape->size() > kMaxTensorRank) {
    return base::Corrupt("{}: shape is not a list of at most {} sizes", where, kMaxTensorRank);
  }
  uint64_t bytes = row->bytes;
  for (const json& size : *shape) {
    tensor.shape.push_back(size.get<uint64_t>());
    if (__builtin_mul_overflow(bytes, tensor.shape.back(), &bytes)) {
      return base::Corrupt("{}: shape {} overflows", where, shape->dump());
    }
  }
  const json* offsets = FindField(entry, "data_offsets");
  if (!IsListOfUnsigned(offsets) || offsets->size() != 2) {
    return base::Corrupt("{}: data_offsets is not a pair of offsets", where);
  }
  const uint64_t begin = (*offsets)[0].get<uint64_t>();
  const uint64_t end = (*offsets)[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return base::Corrupt("{}: bytes [{}, {}) lie outside the {} bytes of data", where, begin, end,
                         data.size());
  }
  if (end - begin != bytes) {
    return base::Corrupt("{}: {} bytes for {} {}, which takes {}", where, end - begin, tensor.dtype_name,
                         shape->dump(), bytes);
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

// Ranges must tile the data: an overlap would let one tensor change another, a hole hides bytes.
base::Status CheckTiling(std::vector<std::pair<std::span<const std::byte>, std::string>> ranges,
                         std::span<const std::byte> data, const std::string& file) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
    return a.first.data() != b.first.data() ? a.first.data() < b.first.data()
                                            : a.first.size() < b.first.size();
  });
  const std::byte* at = data.data();
  for (const auto& [bytes, name] : ranges) {
    if (bytes.data() < at) return base::Corrupt("{}: tensor '{}' overlaps the one before it", file, name);
    if (bytes.data() > at) {
      return base::Corrupt("{}: {} unused bytes before tensor '{}'", file, bytes.data() - at, name);
    }
    at += bytes.size();
  }
  if (at != data.data() + data.size()) {
    return base::Corrupt("{}: {} unused bytes at the end", file, data.data() + data.size() - at);
  }
  return base::Status::Ok();
}

}  // namespace

class Safetensors::MappedFile {
 public:
  static base::Result<std::unique_ptr<MappedFile>> Open(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
      const std::string reason = std::generic_category().message(errno);
      return errno == ENOENT ? base::NotFound("{}: {}", path.string(), reason)
                             : base::Internal("{}: {}", path.string(), reason);
    }
    struct stat info{};
    if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size < 8) {
      ::close(descriptor);
      return base::Corrupt("{}: not a safetensors file: it has no header", path.string());
    }
    const auto size = static_cast<size_t>(info.st_size);
    void* base = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    ::close(descriptor);
    if (base == MAP_FAILED) {
      return base::Internal("{}: cannot map: {}", path.string(), std::generic_category().message(errno));
    }
    return std::unique_ptr<MappedFile>(new MappedFile(base, size));
  }
  ~MappedFile() { ::munmap(base_, size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(base_), size_}; }

 private:
  MappedFile(void* base, size_t size) : base_(base), size_(size) {}
  void* base_;
  size_t size_;
};

Safetensors::Safetensors() = default;
Safetensors::~Safetensors() = default;
Safetensors::Safetensors(Safetensors&&) noexcept = default;
Safetensors& Safetensors::operator=(Safetensors&&) noexcept = default;

const StoredTensor* Safetensors::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

base::Status Safetensors::AddFile(const std::filesystem::path& path) {
  const std::string file = path.string();
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, MappedFile::Open(path));
  const std::span<const std::byte> bytes = mapped->bytes();
  const auto header_bytes = base::LoadLe<uint64_t>(bytes.data());
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return base::Corrupt("{}: a header of {} bytes, the limit is {}", file, header_bytes,
                         kMaxSafetensorsHeaderBytes);
  }
  if (header_bytes > bytes.size() - 8) {
    return base::Corrupt("{}: a header of {} bytes in a file of {}", file, header_bytes, bytes.size());
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  const std::span<const std::byte> data = bytes.subspan(8 + header_bytes);
  KVPLANE_ASSIGN_OR_RETURN(const json header, ParseHeader(text, file));
  std::vector<std::pair<std::span<const std::byte>, std::string>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    KVPLANE_ASSIGN_OR_RETURN(StoredTensor tensor,
                             ReadEntry(entry, data, fmt::format("{}: tensor '{}'", file, name)));
    tensor.file = file;
    ranges.emplace_back(tensor.bytes, name);
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      return base::Corrupt("{}: tensor '{}' is in another file too", file, name);
    }
  }
  KVPLANE_RETURN_IF_ERROR(CheckTiling(std::move(ranges), data, file));
  files_.push_back(std::move(mapped));
  return base::Status::Ok();
}

base::Status Safetensors::AddShards(const std::filesystem::path& folder, const std::filesystem::path& index) {
  const std::string origin = index.string();
  KVPLANE_ASSIGN_OR_RETURN(const json root, ReadJsonObject(index));
  const json* map = FindField(root, "weight_map");
  if (map == nullptr || !map->is_object()) return base::Corrupt("{}: weight_map is not an object", origin);
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) return base::Corrupt("{}: the file of tensor '{}' is not a name", origin, name);
    const std::string file = shard.get<std::string>();
    if (file.empty() || file.front() == '.' || file.find('/') != std::string::npos) {
      return base::Corrupt("{}: '{}' is not a file name in the model folder", origin, file);
    }
    shards.insert(file);
    if (shards.size() > kMaxShards) return base::Corrupt("{}: more than {} files", origin, kMaxShards);
  }
  for (const std::string& shard : shards) KVPLANE_RETURN_IF_ERROR(AddFile(folder / shard));
  for (const auto& [name, shard] : map->items()) {
    const StoredTensor* tensor = Find(name);
    if (tensor == nullptr || tensor->file != (folder / shard.get<std::string>()).string()) {
      return base::Corrupt("{}: tensor '{}' is not in {}", origin, name, shard.get<std::string>());
    }
  }
  return base::Status::Ok();
}

base::Result<Safetensors> Safetensors::Open(const std::filesystem::path& folder) {
  Safetensors safetensors;
  const std::filesystem::path single = folder / "model.safetensors";
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  std::error_code error;
  if (std::filesystem::exists(single, error)) {
    KVPLANE_RETURN_IF_ERROR(safetensors.AddFile(single));
  } else if (std::filesystem::exists(index, error)) {
    KVPLANE_RETURN_IF_ERROR(safetensors.AddShards(folder, index));
  } else {
    return base::NotFound("{}: neither model.safetensors nor model.safetensors.index.json", folder.string());
  }
  return safetensors;
}

}  // namespace kvplane::model
