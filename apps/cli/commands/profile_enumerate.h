// kvplane profile enumerate: the legal strategies of a grid, one canonical text per line.
#pragma once

#include <cstdint>
#include <string>

namespace kvplane::cli {

struct ProfileEnumerateArgs {
  std::string grid = "full";
  std::string side_pairs = "family";  // family, same or all
  uint64_t limit = 0;                 // 0: all
  bool no_dominated = false;
  bool no_profile = false;      // leave out what takes a profile
  std::string format = "text";  // or json: one object per line
};
int CmdProfileEnumerate(const ProfileEnumerateArgs& args);

}  // namespace kvplane::cli
