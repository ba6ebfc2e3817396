#include "apps/cli/node_store.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/base/units.h"

namespace kvplane::cli {
namespace {

constexpr std::string_view kMemory = "mem:";
constexpr std::string_view kFolder = "dir:";

base::Result<std::string> ReadSalt(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  if (!file) return base::NotFound("--store-salt-file {}: cannot be read", path);
  // One byte more than is allowed, so that a longer file is seen.
  std::string salt(store::kMaxSaltBytes + 1, '\0');
  file.read(salt.data(), static_cast<std::streamsize>(salt.size()));
  salt.resize(static_cast<size_t>(file.gcount()));
  while (!salt.empty() && (salt.back() == '\n' || salt.back() == '\r')) salt.pop_back();
  if (salt.empty()) return base::InvalidArgument("--store-salt-file {}: is empty", path);
  if (salt.size() > store::kMaxSaltBytes) {
    return base::InvalidArgument("--store-salt-file {}: at most {} bytes", path, store::kMaxSaltBytes);
  }
  return salt;
}

base::Result<std::vector<std::string>> SpecsOf(const StoreArgs& args) {
  std::vector<std::string> specs;
  for (const std::string& spec : args.specs) {
    if (spec != "none") specs.push_back(spec);
  }
  if (specs.empty()) return specs;
  if (specs.size() != args.specs.size()) {
    return base::InvalidArgument("--store none stands alone: it means no store");
  }
  const base::Result<uint64_t> dram = base::ParseBytes(args.dram);
  if (!dram.ok()) return dram.status().Annotate("--store-dram");
  if (*dram > 0 && !specs.front().starts_with(kMemory)) {
    specs.insert(specs.begin(), fmt::format("{}?bytes={}", kMemory, *dram));
  } else if (*dram > 0 && specs.front() == kMemory) {
    specs.front() = fmt::format("{}?bytes={}", kMemory, *dram);
  }
  return specs;
}

}  // namespace

base::Result<std::unique_ptr<store::StoreStack>> OpenNodeStore(const StoreArgs& args,
                                                               const transport::TransportSecurity& security) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::string> specs, SpecsOf(args));
  if (specs.empty()) return std::unique_ptr<store::StoreStack>();
  for (const std::string& spec : specs) {
    if (spec.starts_with(kFolder)) base::Log(base::LogLevel::kInfo, "opening {}", spec);  // a disk may hang
  }
  base::Result<store::StoreStack> stack = store::CreateStore(specs, {.security = security});
  if (!stack.ok()) return stack.status().Annotate("--store");
  return std::make_unique<store::StoreStack>(*std::move(stack));
}

base::Result<engine::PrefixOptions> PrefixOptionsFrom(const StoreArgs& args, store::Store* store) {
  engine::PrefixOptions options;
  options.store = store;
  options.tenant = args.tenant;
  KVPLANE_ASSIGN_OR_RETURN(options.salt, ReadSalt(args.salt_file));
  options.run_tokens = args.run_tokens;
  base::Result<codec::Strategy> strategy = codec::Strategy::Parse(args.strategy);
  if (!strategy.ok()) return strategy.status().Annotate("--store-strategy");
  options.strategy = *std::move(strategy);
  if (args.quality > store::kLossless || args.min_quality > store::kLossless) {
    return base::InvalidArgument("--store-quality and --store-min-quality are thousandths: at most {}",
                                 store::kLossless);
  }
  options.quality = static_cast<uint16_t>(args.quality);
  options.min_quality = static_cast<uint16_t>(args.min_quality);
  if (args.timeout_ms == 0) return base::InvalidArgument("--store-timeout-ms must be positive");
  options.timeout = std::chrono::milliseconds(args.timeout_ms);
  if (args.load != "adaptive" && args.load != "always") {
    return base::InvalidArgument("--store-load '{}': use adaptive or always", args.load);
  }
  options.load = args.load == "always" ? engine::LoadPolicy::kAlways : engine::LoadPolicy::kAdaptive;
  return options;
}

}  // namespace kvplane::cli
