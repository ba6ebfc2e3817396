// Decorator that lets only peers through who hold the same token, without ever sending it.
//
// Challenge and response before the first byte of a stream, in clear; docs/formats/token_handshake.md is
// normative. Both ends draw a nonce and prove knowledge of the token by an HMAC over both hellos with their
// own role in it; the connecting end goes first, so that a port scanner learns nothing to try tokens on.
//
// What it does not do: the bytes after it are neither encrypted nor protected against somebody on the way who
// alters or takes over the connection (docs/security.md). For that, stack it on tls or use tls with a token.
//
// Thread safety: as in stream.h. The handshake runs as stream.h describes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

// The first of `tokens` is presented; any of them is accepted (token_file.h). kInvalidArgument: no token.
base::Result<std::unique_ptr<Transport>> CreateTokenTransport(
    std::shared_ptr<Transport> inner, const std::vector<std::string>& tokens,
    base::Duration handshake_timeout = kHandshakeTimeout);

}  // namespace kvplane::transport
