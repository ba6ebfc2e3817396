// In-process transport: two bounded pipes between the ends, listeners known by name.
//
// Each instance is a world of its own: "inproc://a" of one instance is not reachable from another. Used by
// tests and by a single process that plays both roles. Same contract as tcp (transport_conformance_test.cc):
// bytes written before a Shutdown() are still delivered, then the peer sees the end of the stream.
//
// Streams and listeners may outlive nothing: destroy them before the transport.
#pragma once

#include <cstddef>
#include <memory>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

struct InprocOptions {
  size_t pipe_bytes = 1 << 20;  // bytes one direction holds before Write() waits; at least 1
};

std::unique_ptr<Transport> CreateInprocTransport(const InprocOptions& options = {});

}  // namespace kvplane::transport
