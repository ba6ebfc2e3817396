#include "kvplane/base/env.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "kvplane/base/check.h"

namespace kvplane::base {
namespace {

constexpr std::array<EnvVariable, 3> kVariables = {{
    {"KVPLANE_FORCE_ISA", "Kernel variant to use: scalar, avx2 or avx512 (default: the best this CPU has)"},
    {"KVPLANE_LOG", "Log level: trace, debug, info, warn, error or off (default: info)"},
    {"KVPLANE_TEST_DATA", "Of tests: folder with the traces and tokenizers of others that some of them read"},
}};

}  // namespace

std::span<const EnvVariable> KnownEnvVariables() { return kVariables; }

std::optional<std::string> ReadEnv(std::string_view name) {
  KVPLANE_CHECK(std::any_of(kVariables.begin(), kVariables.end(),
                            [&](const EnvVariable& v) { return v.name == name; }));
  const char* value = std::getenv(std::string(name).c_str());
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

}  // namespace kvplane::base
