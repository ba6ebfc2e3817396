// The tokens of a chat template: text, tags and what stands in them.
//
// White space follows Jinja with trim_blocks and lstrip_blocks (what the reference implementation sets):
// "{%-" and "-%}" eat all white space on their side, a line break after a statement or comment goes, blanks
// before one on its line go, "{%+" and "+%}" switch that off. A trailing line break of the file is dropped.
//
// Thread safety: pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::model {

// The longest templates in use have about 20 kB.
inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

struct TemplateToken {
  enum class Kind {
    kText,
    kOutputBegin,
    kOutputEnd,
    kTagBegin,
    kTagEnd,
    kName,
    kString,
    kInt,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = Kind::kEnd;
  std::string text;  // kText, kString: contents; kName, kOperator, numbers: as written
  int line = 0;
};

// The last token is kEnd. kInvalidArgument with the line for text that is no template.
base::Result<std::vector<TemplateToken>> LexTemplate(std::string_view source);

}  // namespace kvplane::model
