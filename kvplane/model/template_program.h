// A compiled chat template: the syntax tree and the parser that makes it.
//
// Every name of a filter, test, method, function and statement is checked here, so that what a template
// cannot do is known when the model is loaded. Depth is bounded: walking or freeing the tree recurses.
//
// Thread safety: a program is immutable once parsed.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/template_value.h"

namespace kvplane::model {

// Nesting of expressions and of statements. Long chains ("a + b + c ...") nest too.
inline constexpr int kMaxTemplateDepth = 200;

struct TemplateExpr {
  enum class Kind {
    kLiteral,      // value
    kName,         // name
    kList,         // args
    kDict,         // args: key, value, key, value, ...
    kNegate,       // args[0]
    kNot,          // args[0]
    kBinary,       // name: + - * / // % ~; args[0], args[1]
    kCompare,      // names: operators; args: one more than operators
    kAnd,          // args[0], args[1]
    kOr,           // args[0], args[1]
    kConditional,  // args: condition, then, else (absent: undefined)
    kIndex,        // args: object, index ("a.b" is a['b'])
    kSlice,        // args: object, start, stop, step; null where absent
    kFunction,     // name(args, keywords)
    kMethod,       // args[0].name(args[1...])
    kFilter,       // args[0]|name(args[1...], keywords)
    kTest,         // args[0] is name(args[1...])
  };
  Kind kind = Kind::kLiteral;
  int line = 0;
  int depth = 1;
  std::string name;
  TemplateValue value;
  std::vector<std::string> names;  // kCompare; keyword names otherwise, for the last args
  std::vector<std::unique_ptr<TemplateExpr>> args;
};
using TemplateExprPtr = std::unique_ptr<TemplateExpr>;

struct TemplateNode {
  enum class Kind { kText, kOutput, kSet, kIf, kFor };
  struct Branch {
    TemplateExprPtr condition;  // null: else
    std::vector<TemplateNode> body;
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;                // kText
  TemplateExprPtr expr;            // kOutput, kSet; kFor: what is iterated
  std::vector<std::string> names;  // kSet: name, or namespace and field; kFor: one or two loop variables
  TemplateExprPtr filter;          // kFor: or null
  std::vector<Branch> branches;    // kIf: in order; kFor: the body, then the else branch if there is one
};

struct TemplateProgram {
  std::vector<TemplateNode> nodes;
};

// kInvalidArgument: not a template. kUnimplemented: legal Jinja outside our subset, by name. Both with the
// line.
base::Result<TemplateProgram> ParseTemplate(std::string_view source);

}  // namespace kvplane::model
