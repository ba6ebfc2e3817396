// Decorator that puts TLS 1.3 around the streams of another transport (tls_context.h says with what).
//
// One OpenSSL object cannot be used by two threads at a time, but a stream has a reader and a writer. So the
// object works on memory only: a lock covers coding a batch of records, never a wait or a system call, and
// each thread moves the coded bytes itself. A writer blocked by a slow network therefore never stops the
// reader, and deadlines and Shutdown() are those of the inner stream.
//
// The connecting end checks the host of the endpoint against the certificate: names and addresses alike.
// The end of the inner stream is the end of this one, with or without TLS's own farewell: the protocols above
// say themselves when a message is complete.
//
// After `rekey_bytes` of one direction its key is replaced (KeyUpdate), far below what AES-GCM allows under
// one key (RFC 8446, section 5.5).
//
// Thread safety: as in stream.h. The handshake runs as stream.h describes.
#pragma once

#include <cstdint>
#include <memory>

#include "kvplane/transport/stream.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::transport {

struct TlsOptions {
  // Which ends this transport can be: a context that is missing makes Listen() or Connect() fail with
  // kFailedPrecondition.
  std::shared_ptr<const TlsContext> server;
  std::shared_ptr<const TlsContext> client;
  // The accepting end knows who connects: tokens, or certificates on both sides.
  bool authenticates_peers = false;
  base::Duration handshake_timeout = kHandshakeTimeout;
  uint64_t rekey_bytes = uint64_t{64} << 30;
};

std::unique_ptr<Transport> CreateTlsTransport(std::shared_ptr<Transport> inner, TlsOptions options);

}  // namespace kvplane::transport
