// Token files: what clients of the API send as bearer token, and what nodes prove to each other on KV and
// store connections without sending it.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::transport {

// One token of visible ASCII per line; blank lines and lines that start with '#' are skipped. The first is
// the one to present; any of them is accepted from others, so that tokens can be changed one node at a time.
// kNotFound: the file cannot be read; kInvalidArgument: no token in it, or not a token file. At most 1024
// tokens of 4096 bytes.
base::Result<std::vector<std::string>> ReadTokenFile(const std::string& path);

}  // namespace kvplane::transport
