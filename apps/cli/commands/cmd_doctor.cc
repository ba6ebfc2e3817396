#include "apps/cli/commands/cmd_doctor.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "apps/cli/exit_code.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/base/units.h"
#include "kvplane/kernel/isa.h"
#include "kvplane/model/model.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::cli {
namespace {

enum class Verdict { kOk, kWarn, kFail };

struct Finding {
  std::string what;
  Verdict verdict;
  std::string detail;
  std::string advice;
};

std::string FirstLineWith(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) {
      const size_t colon = line.find(':');
      const size_t start = line.find_first_not_of(" \t", colon + 1);
      return start == std::string::npos ? "" : line.substr(start);
    }
  }
  return "";
}

Finding CheckIsa() {
  const base::Status forced = kernel::ForcedIsaStatus();
  if (!forced.ok()) return {"instruction set", Verdict::kFail, forced.message(), "unset KVPLANE_FORCE_ISA"};
  const kernel::Isa active = kernel::ActiveIsa();
  const std::string detail =
      fmt::format("{} in use, {} is the best of this CPU ({})", Name(active), Name(kernel::DetectedIsa()),
                  FirstLineWith("/proc/cpuinfo", "model name"));
  if (active == kernel::Isa::kScalar) {
    return {"instruction set", Verdict::kWarn, detail,
            "scalar kernels are correct but slow; AVX2 is the practical minimum"};
  }
  return {"instruction set", Verdict::kOk, detail, ""};
}

Finding CheckMemory() {
  struct sysinfo info{};
  sysinfo(&info);
  const double total = static_cast<double>(info.totalram) * info.mem_unit;
  const std::string detail =
      fmt::format("{} in all, {} available, {} hardware threads", base::FormatBytes(total),
                  FirstLineWith("/proc/meminfo", "MemAvailable"), std::thread::hardware_concurrency());
  if (total < 2e9)
    return {"memory", Verdict::kWarn, detail, "set --kv-size well below the memory that is free"};
  return {"memory", Verdict::kOk, detail, ""};
}

Finding CheckHugePages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string mode;
  std::getline(file, mode);
  if (mode.find("[never]") != std::string::npos || mode.empty()) {
    return {"huge pages", Verdict::kWarn, mode.empty() ? "not offered" : mode,
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: fewer TLB misses in the KV cache"};
  }
  return {"huge pages", Verdict::kOk, mode, ""};
}

Finding CheckFileLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::string detail = fmt::format("{} open files allowed", limit.rlim_cur);
  if (limit.rlim_cur < 1024)
    return {"file limit", Verdict::kWarn, detail, "ulimit -n 4096: one per client connection"};
  return {"file limit", Verdict::kOk, detail, ""};
}

Finding CheckLoopback() {
  const std::unique_ptr<transport::Transport> tcp = transport::CreateTcpTransport();
  const auto listener = tcp->Listen("tcp://127.0.0.1:0");
  if (!listener.ok()) {
    return {"loopback", Verdict::kFail, listener.status().ToString(),
            "a TCP port on 127.0.0.1 must be bindable"};
  }
  return {"loopback", Verdict::kOk, fmt::format("can listen ({})", (*listener)->endpoint()), ""};
}

Finding CheckCuda() {
  return {"CUDA", Verdict::kOk, "this build has no CUDA kernels; everything runs on the CPU", ""};
}

void CheckModel(const std::string& folder, std::vector<Finding>& findings) {
  base::ThreadPool pool(std::max(1u, std::thread::hardware_concurrency()));
  const auto model = model::Model::Load(folder, {}, pool);
  if (!model.ok()) {
    findings.push_back(
        {"model", Verdict::kFail, model.status().ToString(), "check the folder against its source"});
    return;
  }
  const tensor::KvGeometry geometry = (*model)->kv_geometry();
  findings.push_back(
      {"model", Verdict::kOk,
       fmt::format("{} layers, {} KV heads x {}, {} bytes of KV per token, matmul in {}", geometry.layers,
                   geometry.kv_heads, geometry.head_dim, geometry.bytes_per_token(),
                   (*model)->compute() == model::ComputeType::kBf16 ? "bf16" : "f32"),
       ""});
  const auto tokenizer = model::Tokenizer::Load(folder);
  if (!tokenizer.ok()) {
    findings.push_back({"tokenizer", Verdict::kFail, tokenizer.status().ToString(), "check the folder"});
  } else {
    findings.push_back({"tokenizer", Verdict::kOk, fmt::format("{} tokens", (*tokenizer)->vocab_size()), ""});
  }
}

void Print(const std::vector<Finding>& findings, bool json) {
  constexpr const char* kNames[] = {"ok", "warn", "FAIL"};
  auto rows = nlohmann::json::array();
  for (const Finding& finding : findings) {
    const char* name = kNames[static_cast<size_t>(finding.verdict)];
    rows.push_back(
        {{"check", finding.what}, {"verdict", name}, {"detail", finding.detail}, {"advice", finding.advice}});
    fmt::print(stderr, "{:<5} {:<16} {}\n", name, finding.what, finding.detail);
    if (!finding.advice.empty()) fmt::print(stderr, "{:<22} -> {}\n", "", finding.advice);
  }
  if (json) fmt::print("{}\n", rows.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

int CmdDoctor(const DoctorArgs& args) {
  std::vector<Finding> findings = {CheckIsa(),       CheckMemory(),   CheckHugePages(),
                                   CheckFileLimit(), CheckLoopback(), CheckCuda()};
  if (!args.model.empty()) CheckModel(args.model, findings);
  Print(findings, args.json);
  for (const Finding& finding : findings) {
    if (finding.verdict == Verdict::kFail) return kExitFailed;
  }
  return kExitOk;
}

}  // namespace kvplane::cli
