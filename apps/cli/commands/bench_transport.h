// kvplane bench transport: bytes per second and CPU time per byte of every transport over loopback, beside a
// plain socket copy of the same sizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct BenchTransportArgs {
  std::vector<std::string> frames = {"64KiB", "256KiB", "1MiB", "4MiB"};  // bytes of one Write() and Read()
  std::string bytes = "256MiB";                                           // moved for one figure
  uint32_t connections = 2;  // tcp and tls are also measured over this many at a time; 1: not
  uint32_t repeats = 9;
  std::string command;  // how this run was started, for the report
  std::string json;
};

int CmdBenchTransport(const BenchTransportArgs& args);

}  // namespace kvplane::cli
