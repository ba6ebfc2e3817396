// Makes a transport from its text form, as it stands in flags and configuration files.
//
//     tcp
//     inproc
//     ucx                                                   where it is built in (ucx_transport.h)
//     shaped(INNER,rate=200Mbit/s,latency_us=500,jitter_us=50,burst=256kB,seed=1)
//
// Parameters of `shaped` may be left out.
//
// Protection (transport_security.h) goes around what leaves the process, inside of `shaped`: the text
// "shaped(tcp)" with tokens and TLS gives shaped(tls(tcp)).
//
// Thread safety: any thread.
#pragma once

#include <memory>
#include <string_view>

#include "kvplane/transport/stream.h"
#include "kvplane/transport/transport_security.h"

namespace kvplane::transport {

// kInvalidArgument names what is unknown or malformed in `spec`, or cannot be done with `security`.
base::Result<std::unique_ptr<Transport>> CreateTransport(std::string_view spec,
                                                         const TransportSecurity& security = {});

}  // namespace kvplane::transport
