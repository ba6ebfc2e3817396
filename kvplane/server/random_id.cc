#include "kvplane/server/random_id.h"

#include <openssl/rand.h>

#include <vector>

#include "kvplane/base/check.h"

namespace kvplane::server {

std::string RandomHex(size_t bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::vector<unsigned char> random(bytes);
  // It fails only where the operating system has no entropy source: nothing secret can be made then.
  KVPLANE_CHECK(RAND_bytes(random.data(), static_cast<int>(bytes)) == 1);
  std::string text;
  text.reserve(2 * bytes);
  for (const unsigned char byte : random) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

}  // namespace kvplane::server
