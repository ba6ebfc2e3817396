// Raw KV in files: NumPy's .npy format (version 1 to 3, C order), [layers, 2, tokens, kv_heads, head_dim].
//
// '<u2' holds bf16 patterns, '<f2' and '<f4' are converted to bf16 (round to nearest even).
//
// Thread safety: values; functions may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {

// KV of one sequence in one piece.
struct RawKv {
  tensor::KvGeometry geometry;
  uint32_t tokens = 0;
  std::vector<uint16_t> values;  // [layers, 2, tokens, kv_heads, head_dim] bf16

  static RawKv Make(const tensor::KvGeometry& geometry, uint32_t tokens);  // zeros
  // The layer as one page that holds all tokens: views of it need no copy.
  tensor::PageFormat page_format() const;
  uint16_t* layer_page(uint32_t layer) { return values.data() + layer * page_format().page_elements; }
};

// kNotFound, kUnavailable (cannot be read), kCorrupt (not a .npy file, or cut short), kInvalidArgument
// (another shape or element type).
base::Result<RawKv> ReadNpy(const std::string& path);

enum class NpyElement { kBf16Patterns, kFloat32 };
base::Status WriteNpy(const std::string& path, const RawKv& kv, NpyElement element);

// Whole files as bytes. Writing goes to a temporary name first, so that no reader sees half a file.
base::Result<std::vector<std::byte>> ReadFileBytes(const std::string& path);
base::Status WriteFileBytes(const std::string& path, std::span<const std::byte> bytes);

}  // namespace kvplane::cli
