// Safetensors: the tensors of a model folder, mapped and checked before a byte is used.
//
// File: u64 little-endian header length, a JSON object {name: {dtype, shape, data_offsets: [begin, end)}},
// then the data that the offsets count into. A folder holds either model.safetensors or shards listed in
// model.safetensors.index.json ({"weight_map": {name: file}}).
//
// Checked: the length against the file and a bound, the JSON, names given twice, dtype names, that each range
// lies in the file, has the size of its shape, and that ranges tile the data without overlap or hole.
//
// Thread safety: const members may be called from many threads. Ownership: views live as long as the object.
// The files must not be truncated while mapped (a read would fault).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::model {

// The bound of the format's reference implementation.
constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;
constexpr size_t kMaxTensorRank = 8;
constexpr size_t kMaxShards = 4096;

struct StoredTensor {
  std::optional<tensor::DType> dtype;  // nothing: a legal type that no weight of ours has (integers, f8, ...)
  std::string dtype_name;              // as the file spells it
  std::vector<uint64_t> shape;
  std::span<const std::byte> bytes;
  std::string file;  // for messages
};

class Safetensors {
 public:
  using TensorMap = std::map<std::string, StoredTensor, std::less<>>;

  // NotFound: neither file is there; Corrupt: a check failed, with the file and the tensor.
  static base::Result<Safetensors> Open(const std::filesystem::path& folder);
  ~Safetensors();
  Safetensors(Safetensors&&) noexcept;
  Safetensors& operator=(Safetensors&&) noexcept;

  const TensorMap& tensors() const { return tensors_; }
  // Null when there is no such tensor.
  const StoredTensor* Find(std::string_view name) const;

 private:
  class MappedFile;
  Safetensors();
  base::Status AddFile(const std::filesystem::path& path);
  base::Status AddShards(const std::filesystem::path& folder, const std::filesystem::path& index);

  std::vector<std::unique_ptr<MappedFile>> files_;
  TensorMap tensors_;
};

}  // namespace kvplane::model
