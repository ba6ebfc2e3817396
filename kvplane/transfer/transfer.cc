#include "kvplane/transfer/transfer.h"

#include <openssl/sha.h>

namespace kvplane::transfer {

Digest HashTokens(std::span<const int32_t> tokens) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the hash is over little-endian bytes");
  static_assert(sizeof(Digest) == SHA256_DIGEST_LENGTH);
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(tokens.data()), tokens.size_bytes(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

std::string DescribeUsed(std::span<const std::string> strategies, uint32_t used) {
  std::string text;
  for (size_t i = 0; i < strategies.size(); ++i) {
    if ((used >> i & 1) == 0) continue;
    if (!text.empty()) text += " / ";
    text += strategies[i];
  }
  return text;
}

}  // namespace kvplane::transfer
