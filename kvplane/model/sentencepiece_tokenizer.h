// SentencePieceTokenizer: the Tokenizer of tokenizer.model, through libsentencepiece.
//
// Its source must not see Abseil, even indirectly: sentencepiece_processor.h declares its own
// `namespace absl` and does not compile beside Debian's. Hence the pimpl and the small include list.
//
// Special tokens in the text are cut out by us (the library has no such notion), so that this tokenizer
// and a tokenizer.json of the same vocabulary agree.
//
// Thread safety: const methods are safe from many threads.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "kvplane/model/tokenizer.h"

namespace kvplane::model {

struct SentencePieceOptions {
  bool add_bos = true;  // add_bos_token and add_eos_token of tokenizer_config.json
  bool add_eos = false;
};

// `model_bytes` is the whole file. kCorrupt when it is not a SentencePiece model.
base::Result<std::unique_ptr<Tokenizer>> ParseSentencePieceModel(std::string_view model_bytes,
                                                                 const SentencePieceOptions& options);

}  // namespace kvplane::model
