// Readers of tokenizer.json (Hugging Face `tokenizers`, model type BPE) and of GPT-2's vocab.json with
// merges.txt. Whatever the file holds, the answer is a Tokenizer or a Status that names the field.
//
// Refused by name: model types other than BPE, dropout, subword prefixes and suffixes, components outside
// the lists of text_pipeline.h, decoders other than ByteLevel, Metaspace, Replace, ByteFallback, Fuse,
// Strip and Sequence, post-processors other than TemplateProcessing, ByteLevel and Sequence.
//
// Thread safety: pure functions.
#pragma once

#include <memory>
#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/model/tokenizer.h"

namespace kvplane::model {

// The bytes of a tokenizer.json.
base::Result<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view bytes);

// The bytes of vocab.json and merges.txt; "<|endoftext|>" is special where the vocabulary has it.
base::Result<std::unique_ptr<Tokenizer>> ParseGpt2Files(std::string_view vocab_json,
                                                        std::string_view merges_txt);

}  // namespace kvplane::model
