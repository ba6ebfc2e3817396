// What spec.md prints of the normative tables is what the code has.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/rans/rans.h"

namespace kvplane::codec {
namespace {

std::string RungTable() {
  std::string text = "| index | class | bypass bits | foretold by j |\n|---|---|---|---|\n";
  for (uint32_t k = 0; k < kernel::kEcsqLadder; ++k) {
    const kernel::RansRung rung = kernel::RansLadderRung(k);
    text += fmt::format("| {} | {} | {} | {} |\n", k, rung.rans_class(), rung.bypass(),
                        kernel::kEcsqForetoldRung[k]);
  }
  return text;
}

std::string TernaryTable() {
  std::string text = "| table | parent 0 | parent 1 | parent 2 and more |\n|---|---|---|---|\n";
  for (uint32_t k = 0; k < kernel::kTernaryTables; ++k) {
    text += fmt::format("| {} |", k);
    for (const auto& f : kernel::kTernaryFrequency[k]) text += fmt::format(" {}, {}, {} |", f[0], f[1], f[2]);
    text += "\n";
  }
  return text;
}

TEST(EcsqSpecUnit, PrintsTheNormativeTables) {
  std::ifstream file(std::string(KVPLANE_SOURCE_DIR) + "/kvplane/codec/ecsq/spec.md", std::ios::binary);
  const std::string spec((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  ASSERT_FALSE(spec.empty());
  EXPECT_NE(spec.find(RungTable()), std::string::npos) << "spec.md, section 7, must hold\n" << RungTable();
  EXPECT_NE(spec.find(TernaryTable()), std::string::npos) << "spec.md, section 7, must hold\n"
                                                          << TernaryTable();
}

}  // namespace
}  // namespace kvplane::codec
