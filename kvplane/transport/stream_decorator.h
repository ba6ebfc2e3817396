// DecorateStreams: a transport that wraps every stream of another one. Internal: token, tls, shaped and
// faulty are made so.
//
// Thread safety: the wrapping function is called from any thread, also at the same time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

// Which end of its connection a stream is: handshakes tell the two apart.
enum class StreamEnd { kConnected, kAccepted };

struct StreamDecoration {
  std::string name;  // "tls(tcp)"
  Capabilities capabilities;
  // Must not wait. `endpoint` is what was connected to; empty where the stream was accepted.
  std::function<base::Result<std::unique_ptr<Stream>>(std::unique_ptr<Stream> inner, StreamEnd end,
                                                      std::string_view endpoint)>
      wrap;
};

std::unique_ptr<Transport> DecorateStreams(std::shared_ptr<Transport> inner, StreamDecoration decoration);

}  // namespace kvplane::transport
