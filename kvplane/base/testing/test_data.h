// Files of others that some tests read where they are: traces, GPT-2's tokenizer. They are not part of the
// repository; docs/testing.md says which they are and where they come from.
//
// Thread safety: pure functions.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "kvplane/base/env.h"

namespace kvplane::base::testing {

// Where `file` is looked for: in the folder KVPLANE_TEST_DATA, or beside the checkout.
inline std::filesystem::path TestData(std::string_view file) {
  const auto folder = ReadEnv("KVPLANE_TEST_DATA");
  return std::filesystem::path(folder ? *folder : KVPLANE_SOURCE_DIR "/../shared/data") / file;
}

// What a test says that is skipped for want of it.
inline std::string NoTestData(const std::filesystem::path& path) {
  return "no " + path.string() + ": docs/testing.md, \"Test data\", says where to get it and how " +
         "KVPLANE_TEST_DATA names its folder";
}

}  // namespace kvplane::base::testing
