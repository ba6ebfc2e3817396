// Contestants of the codec benchmark: strategies, and what they are measured beside.
//
// Each codes one job of the arena at a time. Thread safety: Encode and Decode of different jobs may run on
// different threads, each with a worker number of its own. Ownership: the arena is borrowed and must outlive
// its contestants.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "apps/cli/codec_bench/codec_arena.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::cli {

class Contestant {
 public:
  explicit Contestant(std::string name) : name_(std::move(name)) {}
  Contestant(const Contestant&) = delete;
  Contestant& operator=(const Contestant&) = delete;
  virtual ~Contestant() = default;

  const std::string& name() const { return name_; }
  // worker in [0, workers).
  virtual base::Status Encode(size_t job, size_t worker) = 0;
  virtual base::Status Decode(size_t job, size_t worker) = 0;

  // Whether there is anything to decode and a size to report; false: only the encode rate means anything.
  virtual bool two_way() const { return true; }
  // Of all jobs, as last encoded, index entries included, by tensor::Side. What does not know sides reports
  // half of its bytes for each.
  virtual std::array<uint64_t, 2> coded_bytes() const = 0;
  // Null for the yardsticks.
  virtual const codec::Strategy* strategy() const { return nullptr; }

 private:
  std::string name_;
};

// Copies the job's pages to the output: what moving the bytes costs.
std::unique_ptr<Contestant> MakeMemcpyContestant(CodecArena& arena);
// CRC32C of the job's raw bytes: what checking them costs.
std::unique_ptr<Contestant> MakeCrcContestant(CodecArena& arena);
// zstd at level 1 and lz4 on pieces of the raw bytes, of about a tile each.
std::unique_ptr<Contestant> MakeZstdContestant(CodecArena& arena, size_t workers);
std::unique_ptr<Contestant> MakeLz4Contestant(CodecArena& arena, size_t workers);
// Errors are TileCodec::Create()'s. `profile` may be null where the strategy needs none.
base::Result<std::unique_ptr<Contestant>> MakeStrategyContestant(
    CodecArena& arena, size_t workers, std::string name, const codec::Strategy& strategy,
    std::shared_ptr<const codec::ModelProfile> profile);

}  // namespace kvplane::cli
