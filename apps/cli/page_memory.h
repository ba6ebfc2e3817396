// PageMemory: memory for KV pages as the engine has it (kvplane/engine/kv_arena.h): aligned for vectors, huge
// pages advised. What a codec is measured on must lie as it does in a node: on 4 kB pages at odd addresses
// decoding takes twice as long.
//
// Ownership: unmaps at the end. Thread safety: none of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace kvplane::cli {

class PageMemory {
 public:
  // `values` bf16, zeros. Ends the process when the system has no address space left.
  explicit PageMemory(size_t values);

  std::span<uint16_t> values() { return {memory_.get(), memory_.get_deleter().values}; }
  std::span<const uint16_t> values() const { return {memory_.get(), memory_.get_deleter().values}; }

 private:
  struct Unmap {
    size_t values;
    void operator()(uint16_t* memory) const;
  };
  std::unique_ptr<uint16_t, Unmap> memory_;
};

}  // namespace kvplane::cli
