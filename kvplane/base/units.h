// Units are SI: 1 GB = 1e9 bytes, 1 Gbit/s = 1e9 bits/s. KiB, MiB and GiB are powers of 1024.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::base {

// "12", "4k", "1.5GB", "512MiB" -> bytes. Rejects signs, unknown suffixes and overflow.
Result<uint64_t> ParseBytes(std::string_view text);

// "200Mbit/s", "1.5Gbit", "25MB/s", "1e6" (bits per second) -> bits per second.
Result<double> ParseBitsPerSecond(std::string_view text);

std::string FormatBytes(double bytes);                    // "3.20 MB"
std::string FormatBitsPerSecond(double bits_per_second);  // "200 Mbit/s"

}  // namespace kvplane::base
