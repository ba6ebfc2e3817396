// Ids that nobody can guess: transfer ids grant access to a prompt's KV.
#pragma once

#include <cstddef>
#include <string>

namespace kvplane::server {

// 2 * `bytes` hexadecimal digits from OpenSSL's generator. 16 bytes are unguessable.
std::string RandomHex(size_t bytes);

}  // namespace kvplane::server
