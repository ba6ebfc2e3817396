// kvplane doctor: what this machine offers kvplane, what is missing, and what to do about it.
#pragma once

#include <string>

namespace kvplane::cli {

struct DoctorArgs {
  std::string model;  // also load and check this model folder
  bool json = false;
};

// Exit code 0 when nothing is broken (warnings allowed), 1 otherwise.
int CmdDoctor(const DoctorArgs& args);

}  // namespace kvplane::cli
