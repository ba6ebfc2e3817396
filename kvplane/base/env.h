// The single reader of environment variables. docs/environment.md lists them; env_test.cc compares the
// two lists. No other file may call getenv (scripts/check-layers refuses it).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace kvplane::base {

struct EnvVariable {
  std::string_view name;
  std::string_view meaning;
};

// Every variable kvplane reads.
std::span<const EnvVariable> KnownEnvVariables();

// The value of a known variable, or nothing when it is unset or empty. `name` must be listed.
std::optional<std::string> ReadEnv(std::string_view name);

}  // namespace kvplane::base
