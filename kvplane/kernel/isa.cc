#include "kvplane/kernel/isa.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <string>

#include "kvplane/base/check.h"
#include "kvplane/base/env.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace kvplane::kernel {
namespace {

constexpr std::array<Isa, 3> kAll = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};

Isa Detect() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (!avx2) return Isa::kScalar;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  return avx512 ? Isa::kAvx512 : Isa::kAvx2;
}

struct Choice {
  Isa isa;
  base::Status status;
};

Choice Choose() {
  const Isa best = DetectedIsa();
  const std::optional<std::string> forced = base::ReadEnv("KVPLANE_FORCE_ISA");
  if (!forced) return {best, base::Status::Ok()};
  const base::Result<Isa> isa = ParseIsa(*forced);
  if (!isa.ok()) return {best, isa.status().Annotate("KVPLANE_FORCE_ISA")};
  if (*isa > best) {
    return {best, base::Unimplemented("KVPLANE_FORCE_ISA={}: this CPU has {} at most", *forced, Name(best))};
  }
  return {*isa, base::Status::Ok()};
}

const Choice& Chosen() {
  static const Choice choice = Choose();
  return choice;
}

// What a ScopedIsa says; kNone without one.
constexpr int kNone = -1;
std::atomic<int> scoped{kNone};

}  // namespace

std::string_view Name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

base::Result<Isa> ParseIsa(std::string_view name) {
  for (const Isa isa : kAll) {
    if (Name(isa) == name) return isa;
  }
  return base::InvalidArgument("unknown instruction set '{}': use scalar, avx2 or avx512", name);
}

Isa DetectedIsa() {
  static const Isa isa = Detect();
  return isa;
}

std::span<const Isa> AvailableIsas() { return std::span(kAll).first(static_cast<size_t>(DetectedIsa()) + 1); }

Isa ActiveIsa() {
  const int isa = scoped.load(std::memory_order_relaxed);
  return isa == kNone ? Chosen().isa : static_cast<Isa>(isa);
}

base::Status ForcedIsaStatus() { return Chosen().status; }

testing::ScopedIsa::ScopedIsa(Isa isa) : before_(scoped.load()) {
  KVPLANE_CHECK(isa <= DetectedIsa());
  scoped.store(static_cast<int>(isa));
}

testing::ScopedIsa::~ScopedIsa() { scoped.store(before_); }

}  // namespace kvplane::kernel
