// Makes a transport from its text form, as it stands in flags and configuration files.
//
//     tcp
//     inproc
//     shaped(INNER,rate=200Mbit/s,latency_us=500,burst=256kB)     the parameters may be left out
#pragma once

#include <memory>
#include <string_view>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

// kInvalidArgument names what is unknown or malformed in `spec`.
base::Result<std::unique_ptr<Transport>> CreateTransport(std::string_view spec);

}  // namespace kvplane::transport
