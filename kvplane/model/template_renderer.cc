#include "kvplane/model/template_renderer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "kvplane/model/template_builtins.h"

namespace kvplane::model {
namespace {

using Value = TemplateValue;
using Kind = TemplateValue::Kind;
using ExprKind = TemplateExpr::Kind;
using ValueResult = base::Result<TemplateValue>;

constexpr size_t kMaxNamespaces = 1000;
constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox allows as many

ValueResult Arithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") overflow = __builtin_add_overflow(a, b, &result);
  if (op == "-") overflow = __builtin_sub_overflow(a, b, &result);
  if (op == "*") overflow = __builtin_mul_overflow(a, b, &result);
  if (op == "/" || op == "//" || op == "%") {
    if (b == 0) return base::InvalidArgument("division by zero");
    if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {  // INT64_MIN / -1 is the one quotient that does not fit
      overflow = op == "//" && a == std::numeric_limits<int64_t>::min();
      result = op == "//" && !overflow ? -a : 0;
    } else {
      // Python rounds towards minus infinity and gives the remainder the divisor's sign.
      const int64_t remainder = a % b;
      const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
      result = op == "//" ? a / b - (adjust ? 1 : 0) : remainder + (adjust ? b : 0);
    }
  }
  if (overflow) return base::InvalidArgument("'{}' overflows", op);
  return Value::Int(result);
}

ValueResult Arithmetic(const std::string& op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (b == 0.0) return base::InvalidArgument("division by zero");
  if (op == "/") return Value::Float(a / b);
  if (op == "//") return Value::Float(std::floor(a / b));
  return Value::Float(a - b * std::floor(a / b));
}

// Start, stop and step of Python's slice over `size` items, as (first index, count, step).
struct SliceRange {
  int64_t first;
  int64_t count;
  int64_t step;
};

base::Result<SliceRange> ResolveSlice(const Value* start, const Value* stop, const Value* step,
                                      int64_t size) {
  const auto bound = [size](const Value& value, int64_t low, int64_t high) {
    const int64_t index = value.as_int() < 0 ? std::max(value.as_int(), -size - 1) + size : value.as_int();
    return std::clamp(index, low, high);
  };
  for (const Value* part : {start, stop, step}) {
    if (part != nullptr && !part->is(Kind::kInt))
      return base::InvalidArgument("slice with {}", part->KindName());
  }
  const int64_t by = step == nullptr ? 1 : step->as_int();
  if (by == 0) return base::InvalidArgument("slice with step 0");
  if (by > 0) {
    const int64_t first = start == nullptr ? 0 : bound(*start, 0, size);
    const int64_t last = stop == nullptr ? size : bound(*stop, 0, size);
    return SliceRange{first, last > first ? (last - first - 1) / by + 1 : 0, by};
  }
  const int64_t first = start == nullptr ? size - 1 : bound(*start, -1, size - 1);
  const int64_t last = stop == nullptr ? -1 : bound(*stop, -1, size - 1);
  return SliceRange{first, first > last ? (last - first + 1) / by + 1 : 0, by};
}

class Renderer {
 public:
  explicit Renderer(Value::Dict variables) { scopes_.push_back(std::move(variables)); }

  base::Result<std::string> Run(const TemplateProgram& program) {
    KVPLANE_RETURN_IF_ERROR(RenderBody(program.nodes));
    return std::move(output_);
  }

 private:
  using Keywords = std::vector<std::pair<std::string, Value>>;

  base::Status RenderBody(const std::vector<TemplateNode>& nodes);
  base::Status RenderNode(const TemplateNode& node);
  base::Status RenderIf(const TemplateNode& node);
  base::Status RenderFor(const TemplateNode& node);
  base::Status RenderSet(const TemplateNode& node);
  base::Status BindLoopNames(const TemplateNode& node, const Value& item, Value::Dict* scope) const;
  base::Status Write(std::string_view text);

  ValueResult Eval(const TemplateExpr& expr);
  ValueResult EvalOperator(const TemplateExpr& expr);
  ValueResult EvalName(const TemplateExpr& expr) const;
  ValueResult EvalDict(const TemplateExpr& expr);
  ValueResult EvalBinary(const TemplateExpr& expr);
  ValueResult EvalCompare(const TemplateExpr& expr);
  base::Result<bool> Compare(const std::string& op, const Value& a, const Value& b);
  ValueResult EvalIndex(const TemplateExpr& expr);
  ValueResult EvalSlice(const TemplateExpr& expr);
  ValueResult EvalCall(const TemplateExpr& expr);
  ValueResult CallFunction(const TemplateExpr& expr, const std::vector<Value>& args, Keywords keywords);
  ValueResult Range(const std::vector<Value>& args);
  ValueResult NewNamespace(Keywords keywords);

  std::vector<Value::Dict> scopes_;
  std::vector<Value::Dict> namespaces_;
  TemplateBudget budget_;
  std::string output_;
};

void Assign(Value::Dict* dict, const std::string& name, Value value) {
  const auto found =
      std::find_if(dict->begin(), dict->end(), [&](const auto& entry) { return entry.first == name; });
  if (found != dict->end()) {
    found->second = std::move(value);
  } else {
    dict->emplace_back(name, std::move(value));
  }
}

base::Status AtLine(const base::Status& status, int line) {
  // The innermost line is the one that helps.
  return status.ok() || status.message().starts_with("line ") ? status
                                                              : status.Annotate(fmt::format("line {}", line));
}

// --- statements ---

base::Status Renderer::RenderBody(const std::vector<TemplateNode>& nodes) {
  for (const TemplateNode& node : nodes) {
    KVPLANE_RETURN_IF_ERROR(AtLine(budget_.Steps(1), node.line));
    KVPLANE_RETURN_IF_ERROR(AtLine(RenderNode(node), node.line));
  }
  return base::Status::Ok();
}

base::Status Renderer::Write(std::string_view text) {
  KVPLANE_RETURN_IF_ERROR(budget_.Bytes(text.size()));
  output_ += text;
  return base::Status::Ok();
}

base::Status Renderer::RenderNode(const TemplateNode& node) {
  switch (node.kind) {
    case TemplateNode::Kind::kText:
      return Write(node.text);
    case TemplateNode::Kind::kOutput: {
      KVPLANE_ASSIGN_OR_RETURN(const Value value, Eval(*node.expr));
      if (value.is(Kind::kString)) return Write(value.as_string());
      KVPLANE_ASSIGN_OR_RETURN(const std::string text, ToText(value));
      return Write(text);
    }
    case TemplateNode::Kind::kIf:
      return RenderIf(node);
    case TemplateNode::Kind::kFor:
      return RenderFor(node);
    case TemplateNode::Kind::kSet:
      return RenderSet(node);
  }
  return base::Internal("a node of unknown kind");
}

base::Status Renderer::RenderIf(const TemplateNode& node) {
  for (const TemplateNode::Branch& branch : node.branches) {
    if (branch.condition != nullptr) {
      KVPLANE_ASSIGN_OR_RETURN(const Value condition, Eval(*branch.condition));
      if (!condition.Truthy()) continue;
    }
    return RenderBody(branch.body);
  }
  return base::Status::Ok();
}

base::Status Renderer::BindLoopNames(const TemplateNode& node, const Value& item, Value::Dict* scope) const {
  if (node.names.size() == 1) {
    Assign(scope, node.names[0], item);
    return base::Status::Ok();
  }
  if (!item.is(Kind::kList) || item.as_list().size() != node.names.size()) {
    return base::InvalidArgument("cannot unpack {} into {} names", item.KindName(), node.names.size());
  }
  for (size_t i = 0; i < node.names.size(); ++i) Assign(scope, node.names[i], item.as_list()[i]);
  return base::Status::Ok();
}

base::Status Renderer::RenderFor(const TemplateNode& node) {
  KVPLANE_ASSIGN_OR_RETURN(const Value iterable, Eval(*node.expr));
  KVPLANE_ASSIGN_OR_RETURN(Value::List items, ItemsOf(iterable, &budget_));
  if (node.filter != nullptr) {
    Value::List kept;
    for (Value& item : items) {
      Value::Dict scope;
      KVPLANE_RETURN_IF_ERROR(BindLoopNames(node, item, &scope));
      scopes_.push_back(std::move(scope));
      ValueResult passes = Eval(*node.filter);
      scopes_.pop_back();
      if (!passes.ok()) return passes.status();
      if (passes->Truthy()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty() && node.branches.size() > 1) return RenderBody(node.branches[1].body);
  const auto count = static_cast<int64_t>(items.size());
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    KVPLANE_ASSIGN_OR_RETURN(Value loop,
                             Value::FromDict({{"index", Value::Int(i + 1)},
                                              {"index0", Value::Int(i)},
                                              {"revindex", Value::Int(count - i)},
                                              {"revindex0", Value::Int(count - i - 1)},
                                              {"first", Value::Bool(i == 0)},
                                              {"last", Value::Bool(i + 1 == count)},
                                              {"length", Value::Int(count)},
                                              {"previtem", i == 0 ? Value() : items[at - 1]},
                                              {"nextitem", i + 1 == count ? Value() : items[at + 1]}}));
    Value::Dict scope;
    scope.emplace_back("loop", std::move(loop));
    KVPLANE_RETURN_IF_ERROR(BindLoopNames(node, items[at], &scope));
    scopes_.push_back(std::move(scope));
    base::Status status = RenderBody(node.branches[0].body);
    scopes_.pop_back();
    KVPLANE_RETURN_IF_ERROR(status);
  }
  return base::Status::Ok();
}

base::Status Renderer::RenderSet(const TemplateNode& node) {
  KVPLANE_ASSIGN_OR_RETURN(Value value, Eval(*node.expr));
  if (node.names.size() == 1) {
    Assign(&scopes_.back(), node.names[0], std::move(value));
    return base::Status::Ok();
  }
  TemplateExpr target;
  target.name = node.names[0];
  KVPLANE_ASSIGN_OR_RETURN(const Value space, EvalName(target));
  if (!space.is(Kind::kNamespace)) {
    return base::InvalidArgument("cannot set a field of '{}', {}", node.names[0], space.KindName());
  }
  Assign(&namespaces_[space.namespace_number()], node.names[1], std::move(value));
  return base::Status::Ok();
}

// --- expressions ---

ValueResult Renderer::EvalName(const TemplateExpr& expr) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const Value* value = FindEntry(*scope, expr.name)) return *value;
  }
  return Value();
}

ValueResult Renderer::Eval(const TemplateExpr& expr) {
  KVPLANE_RETURN_IF_ERROR(budget_.Steps(1));
  if (expr.kind == ExprKind::kLiteral) return expr.value;
  if (expr.kind == ExprKind::kName) return EvalName(expr);
  ValueResult result = EvalOperator(expr);
  if (!result.ok()) return AtLine(result.status(), expr.line);
  return result;
}

ValueResult Renderer::EvalOperator(const TemplateExpr& expr) {
  switch (expr.kind) {
    case ExprKind::kList: {
      Value::List items;
      for (const TemplateExprPtr& arg : expr.args) {
        KVPLANE_ASSIGN_OR_RETURN(Value item, Eval(*arg));
        items.push_back(std::move(item));
      }
      return Value::FromList(std::move(items));
    }
    case ExprKind::kDict:
      return EvalDict(expr);
    case ExprKind::kNot: {
      KVPLANE_ASSIGN_OR_RETURN(const Value operand, Eval(*expr.args[0]));
      return Value::Bool(!operand.Truthy());
    }
    case ExprKind::kNegate: {
      KVPLANE_ASSIGN_OR_RETURN(const Value operand, Eval(*expr.args[0]));
      if (operand.is(Kind::kInt)) return Arithmetic("-", int64_t{0}, operand.as_int());
      if (operand.is(Kind::kFloat)) return Value::Float(-operand.as_float());
      return base::InvalidArgument("minus {}", operand.KindName());
    }
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      KVPLANE_ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0]));
      if (left.Truthy() == (expr.kind == ExprKind::kOr)) return left;
      return Eval(*expr.args[1]);
    }
    case ExprKind::kConditional: {
      KVPLANE_ASSIGN_OR_RETURN(const Value condition, Eval(*expr.args[0]));
      if (condition.Truthy()) return Eval(*expr.args[1]);
      return expr.args.size() > 2 ? Eval(*expr.args[2]) : ValueResult(Value());
    }
    case ExprKind::kBinary:
      return EvalBinary(expr);
    case ExprKind::kCompare:
      return EvalCompare(expr);
    case ExprKind::kIndex:
      return EvalIndex(expr);
    case ExprKind::kSlice:
      return EvalSlice(expr);
    default:
      return EvalCall(expr);
  }
}

ValueResult Renderer::EvalDict(const TemplateExpr& expr) {
  Value::Dict items;
  for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
    KVPLANE_ASSIGN_OR_RETURN(const Value key, Eval(*expr.args[i]));
    KVPLANE_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i + 1]));
    if (!key.is(Kind::kString)) return base::InvalidArgument("{} as a key", key.KindName());
    KVPLANE_RETURN_IF_ERROR(budget_.Steps(items.size()));
    Assign(&items, key.as_string(), std::move(value));
  }
  return Value::FromDict(std::move(items));
}

ValueResult Renderer::EvalBinary(const TemplateExpr& expr) {
  KVPLANE_ASSIGN_OR_RETURN(const Value a, Eval(*expr.args[0]));
  KVPLANE_ASSIGN_OR_RETURN(const Value b, Eval(*expr.args[1]));
  const std::string& op = expr.name;
  if (op == "~" || (op == "+" && a.is(Kind::kString) && b.is(Kind::kString))) {
    KVPLANE_ASSIGN_OR_RETURN(std::string text, ToText(a));
    KVPLANE_ASSIGN_OR_RETURN(const std::string tail, ToText(b));
    KVPLANE_RETURN_IF_ERROR(budget_.Bytes(text.size() + tail.size()));
    return Value::String(std::move(text += tail));
  }
  if (op == "+" && a.is(Kind::kList) && b.is(Kind::kList)) {
    KVPLANE_RETURN_IF_ERROR(budget_.Steps(a.as_list().size() + b.as_list().size()));
    Value::List items = a.as_list();
    items.insert(items.end(), b.as_list().begin(), b.as_list().end());
    return Value::FromList(std::move(items));
  }
  double x = 0.0;
  double y = 0.0;
  if (!a.AsNumber(&x) || !b.AsNumber(&y)) {
    return base::InvalidArgument("{} {} {}", a.KindName(), op, b.KindName());
  }
  if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) return Arithmetic(op, x, y);
  const auto integer = [](const Value& value) {
    return value.is(Kind::kInt) ? value.as_int() : value.as_bool() ? 1 : 0;
  };
  return Arithmetic(op, integer(a), integer(b));
}

base::Result<bool> Renderer::Compare(const std::string& op, const Value& a, const Value& b) {
  if (op == "in") return Contains(b, a, &budget_);
  if (op == "not in") {
    KVPLANE_ASSIGN_OR_RETURN(const bool contains, Contains(b, a, &budget_));
    return !contains;
  }
  KVPLANE_RETURN_IF_ERROR(budget_.Steps(std::min(a.weight(), b.weight())));
  if (op == "==" || op == "!=") return Equal(a, b) == (op == "==");
  int order = 0;
  double x = 0.0;
  double y = 0.0;
  if (a.is(Kind::kString) && b.is(Kind::kString)) {
    order = a.as_string().compare(b.as_string());  // byte order of UTF-8 is code point order
  } else if (a.is(Kind::kInt) && b.is(Kind::kInt)) {
    order = a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int() ? 1 : 0;
  } else if (a.AsNumber(&x) && b.AsNumber(&y)) {
    if (std::isnan(x) || std::isnan(y)) return false;
    order = x < y ? -1 : x > y ? 1 : 0;
  } else {
    return base::InvalidArgument("{} {} {}", a.KindName(), op, b.KindName());
  }
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  return op == ">" ? order > 0 : order >= 0;
}

ValueResult Renderer::EvalCompare(const TemplateExpr& expr) {
  KVPLANE_ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0]));
  for (size_t i = 0; i < expr.names.size(); ++i) {
    KVPLANE_ASSIGN_OR_RETURN(Value right, Eval(*expr.args[i + 1]));
    KVPLANE_ASSIGN_OR_RETURN(const bool holds, Compare(expr.names[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

ValueResult Renderer::EvalIndex(const TemplateExpr& expr) {
  KVPLANE_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
  KVPLANE_ASSIGN_OR_RETURN(const Value index, Eval(*expr.args[1]));
  if (object.is(Kind::kUndefined)) return base::InvalidArgument("index or field of an undefined value");
  const Value* found = nullptr;
  if (index.is(Kind::kString)) {
    if (object.is(Kind::kDict)) found = FindEntry(object.as_dict(), index.as_string());
    if (object.is(Kind::kNamespace))
      found = FindEntry(namespaces_[object.namespace_number()], index.as_string());
    return found == nullptr ? Value() : *found;
  }
  if (!index.is(Kind::kInt)) return Value();
  if (object.is(Kind::kList)) {
    const auto size = static_cast<int64_t>(object.as_list().size());
    const int64_t at = index.as_int() < 0 && index.as_int() >= -size ? index.as_int() + size : index.as_int();
    return at >= 0 && at < size ? object.as_list()[static_cast<size_t>(at)] : Value();
  }
  if (!object.is(Kind::kString)) return Value();
  KVPLANE_ASSIGN_OR_RETURN(const Value::List characters, ItemsOf(object, &budget_));
  const auto size = static_cast<int64_t>(characters.size());
  const int64_t at = index.as_int() < 0 && index.as_int() >= -size ? index.as_int() + size : index.as_int();
  return at >= 0 && at < size ? characters[static_cast<size_t>(at)] : Value();
}

ValueResult Renderer::EvalSlice(const TemplateExpr& expr) {
  KVPLANE_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
  Value parts[3];
  const Value* given[3] = {nullptr, nullptr, nullptr};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.args[i + 1] == nullptr) continue;
    KVPLANE_ASSIGN_OR_RETURN(parts[i], Eval(*expr.args[i + 1]));
    if (!parts[i].is(Kind::kNone)) given[i] = &parts[i];
  }
  if (!object.is(Kind::kList) && !object.is(Kind::kString)) {
    return base::InvalidArgument("slice of {}", object.KindName());
  }
  KVPLANE_ASSIGN_OR_RETURN(const Value::List items, ItemsOf(object, &budget_));
  KVPLANE_ASSIGN_OR_RETURN(const SliceRange range,
                           ResolveSlice(given[0], given[1], given[2], static_cast<int64_t>(items.size())));
  Value::List kept;
  std::string text;
  for (int64_t i = 0, at = range.first; i < range.count; ++i, at += i < range.count ? range.step : 0) {
    const Value& item = items[static_cast<size_t>(at)];
    if (object.is(Kind::kString)) {
      text += item.as_string();
    } else {
      kept.push_back(item);
    }
  }
  return object.is(Kind::kString) ? ValueResult(Value::String(std::move(text)))
                                  : Value::FromList(std::move(kept));
}

ValueResult Renderer::EvalCall(const TemplateExpr& expr) {
  std::vector<Value> args;
  Keywords keywords;
  const size_t positional = expr.args.size() - expr.names.size();
  for (size_t i = 0; i < expr.args.size(); ++i) {
    KVPLANE_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i]));
    if (i < positional) {
      args.push_back(std::move(value));
    } else {
      keywords.emplace_back(expr.names[i - positional], std::move(value));
    }
  }
  const TemplateCall call{expr.name, args, keywords, &budget_};
  switch (expr.kind) {
    case ExprKind::kFunction:
      return CallFunction(expr, args, std::move(keywords));
    case ExprKind::kMethod:
      return CallMethod(call);
    case ExprKind::kFilter:
      return CallFilter(call);
    default: {
      KVPLANE_ASSIGN_OR_RETURN(const bool holds, CallTest(call));
      return Value::Bool(holds);
    }
  }
}

ValueResult Renderer::CallFunction(const TemplateExpr& expr, const std::vector<Value>& args,
                                   Keywords keywords) {
  if (expr.name == "namespace" && args.empty()) return NewNamespace(std::move(keywords));
  if (expr.name == "range" && keywords.empty()) return Range(args);
  if (expr.name == "raise_exception" && args.size() == 1 && keywords.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string message, ToText(args[0]));
    return base::InvalidArgument("the chat template refuses: {}", message);
  }
  return base::InvalidArgument("wrong arguments of '{}'", expr.name);
}

ValueResult Renderer::NewNamespace(Keywords keywords) {
  if (namespaces_.size() >= kMaxNamespaces)
    return base::ResourceExhausted("more than {} namespaces", kMaxNamespaces);
  namespaces_.push_back(std::move(keywords));
  return Value::Namespace(namespaces_.size() - 1);
}

ValueResult Renderer::Range(const std::vector<Value>& args) {
  if (args.empty() || args.size() > 3) return base::InvalidArgument("wrong arguments of 'range'");
  for (const Value& arg : args) {
    const bool valid = arg.is(Kind::kInt) && arg.as_int() >= -kMaxRange && arg.as_int() <= kMaxRange;
    if (!valid) return base::InvalidArgument("range beyond {}", kMaxRange);
  }
  const int64_t first = args.size() > 1 ? args[0].as_int() : 0;
  const int64_t stop = args.size() > 1 ? args[1].as_int() : args[0].as_int();
  const int64_t step = args.size() > 2 ? args[2].as_int() : 1;
  if (step == 0) return base::InvalidArgument("range with step 0");
  Value::List items;
  for (int64_t i = first; step > 0 ? i < stop : i > stop; i += step) items.push_back(Value::Int(i));
  KVPLANE_RETURN_IF_ERROR(budget_.Steps(items.size()));
  return Value::FromList(std::move(items));
}

}  // namespace

base::Result<std::string> RenderTemplate(const TemplateProgram& program, TemplateValue::Dict variables) {
  return Renderer(std::move(variables)).Run(program);
}

}  // namespace kvplane::model
