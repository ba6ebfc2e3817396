#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "kvplane/model/template_builtins.h"
#include "kvplane/model/template_lexer.h"
#include "kvplane/model/template_program.h"

namespace kvplane::model {
namespace {

using ExprKind = TemplateExpr::Kind;
using TokenKind = TemplateToken::Kind;
using ExprResult = base::Result<TemplateExprPtr>;

// Recursive descent with Jinja's precedence, loosest first: if-else, or, and, not, comparisons, + -, ~,
// * / // %, unary minus, then attribute, index, call, filter and test.
class Parser {
 public:
  explicit Parser(std::vector<TemplateToken> tokens) : tokens_(std::move(tokens)) {}

  base::Result<TemplateProgram> Run();

 private:
  // Nesting of the parser itself, which bounds its own recursion.
  class Level {
   public:
    explicit Level(Parser* parser) : parser_(parser) { ++parser_->level_; }
    ~Level() { --parser_->level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Parser* parser_;
  };

  const TemplateToken& Peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  TemplateToken Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsOperator(std::string_view op) const {
    return Peek().kind == TokenKind::kOperator && Peek().text == op;
  }
  bool IsName(std::string_view name) const { return Peek().kind == TokenKind::kName && Peek().text == name; }
  bool AcceptOperator(std::string_view op);
  bool AcceptName(std::string_view name);
  base::Status ExpectOperator(std::string_view op);
  base::Status Expect(TokenKind kind, std::string_view what);
  base::Result<std::string> ExpectName();
  base::Status Unexpected() const;
  base::Status CheckLevel() const;

  base::Status ParseBody(std::initializer_list<std::string_view> ends, std::vector<TemplateNode>* nodes);
  base::Status ParseStatement(std::vector<TemplateNode>* nodes);
  base::Status ParseIf(TemplateNode* node);
  base::Status ParseFor(TemplateNode* node);
  base::Status ParseSet(TemplateNode* node);

  ExprResult ParseExpr();
  ExprResult ParseOr();
  ExprResult ParseAnd();
  ExprResult ParseNot();
  ExprResult ParseCompare();
  ExprResult ParseSum();
  ExprResult ParseConcat();
  ExprResult ParseProduct();
  ExprResult ParseUnary(bool with_filters);
  ExprResult ParsePrimary();
  ExprResult ParseNumber();
  ExprResult ParseList(std::string_view close);
  ExprResult ParseDict();
  ExprResult ParsePostfix(TemplateExprPtr expr);
  ExprResult ParseFilters(TemplateExprPtr expr);
  ExprResult ParseMember(TemplateExprPtr object);
  ExprResult ParseSubscript(TemplateExprPtr object);
  ExprResult ParseFunction(TemplateExprPtr callee);
  ExprResult ParseFilter(TemplateExprPtr operand);
  ExprResult ParseTest(TemplateExprPtr operand);
  base::Status ParseArguments(TemplateExpr* call, bool keywords);
  ExprResult ParseBinary(std::initializer_list<std::string_view> operators, ExprResult (Parser::*operand)());

  // A node over `args`; fails when the tree gets too deep.
  ExprResult Make(ExprKind kind, std::string name, std::vector<TemplateExprPtr> args) const;
  ExprResult Finish(TemplateExprPtr expr) const;
  template <typename... Args>
  static std::vector<TemplateExprPtr> List(Args&&... args) {
    std::vector<TemplateExprPtr> list;
    (list.push_back(std::forward<Args>(args)), ...);
    return list;
  }

  std::vector<TemplateToken> tokens_;
  size_t at_ = 0;
  int level_ = 0;
};

bool Parser::AcceptOperator(std::string_view op) {
  if (!IsOperator(op)) return false;
  ++at_;
  return true;
}

bool Parser::AcceptName(std::string_view name) {
  if (!IsName(name)) return false;
  ++at_;
  return true;
}

base::Status Parser::Unexpected() const {
  const TemplateToken& token = Peek();
  switch (token.kind) {
    case TokenKind::kEnd:
      return base::InvalidArgument("line {}: unexpected end of the template", token.line);
    case TokenKind::kTagEnd:
    case TokenKind::kOutputEnd:
      return base::InvalidArgument("line {}: unexpected end of the tag", token.line);
    case TokenKind::kString:
      return base::InvalidArgument("line {}: unexpected string", token.line);
    default:
      return base::InvalidArgument("line {}: unexpected '{}'", token.line, token.text);
  }
}

base::Status Parser::ExpectOperator(std::string_view op) {
  return AcceptOperator(op) ? base::Status::Ok() : Unexpected().Annotate(fmt::format("expected '{}'", op));
}

base::Status Parser::Expect(TokenKind kind, std::string_view what) {
  if (Peek().kind != kind) return Unexpected().Annotate(fmt::format("expected {}", what));
  Next();
  return base::Status::Ok();
}

base::Result<std::string> Parser::ExpectName() {
  if (Peek().kind != TokenKind::kName) return Unexpected().Annotate("expected a name");
  return Next().text;
}

base::Status Parser::CheckLevel() const {
  if (level_ <= kMaxTemplateDepth) return base::Status::Ok();
  return base::ResourceExhausted("line {}: nested deeper than {}", Peek().line, kMaxTemplateDepth);
}

ExprResult Parser::Finish(TemplateExprPtr expr) const {
  for (const TemplateExprPtr& arg : expr->args) {
    if (arg != nullptr) expr->depth = std::max(expr->depth, arg->depth + 1);
  }
  if (expr->depth > kMaxTemplateDepth) {
    return base::ResourceExhausted("line {}: an expression nested deeper than {}", expr->line,
                                   kMaxTemplateDepth);
  }
  return expr;
}

ExprResult Parser::Make(ExprKind kind, std::string name, std::vector<TemplateExprPtr> args) const {
  auto expr = std::make_unique<TemplateExpr>();
  expr->kind = kind;
  expr->line = Peek().line;
  expr->name = std::move(name);
  expr->args = std::move(args);
  return Finish(std::move(expr));
}

// --- statements ---

base::Result<TemplateProgram> Parser::Run() {
  TemplateProgram program;
  KVPLANE_RETURN_IF_ERROR(ParseBody({}, &program.nodes));
  if (Peek().kind != TokenKind::kEnd) return Unexpected();
  return program;
}

// Up to a tag that begins with one of `ends` (its begin and name are left) or the end of the template.
base::Status Parser::ParseBody(std::initializer_list<std::string_view> ends,
                               std::vector<TemplateNode>* nodes) {
  const Level level(this);
  KVPLANE_RETURN_IF_ERROR(CheckLevel());
  while (Peek().kind != TokenKind::kEnd) {
    if (Peek().kind == TokenKind::kTagBegin) {
      const bool ends_here =
          Peek(1).kind == TokenKind::kName && std::find(ends.begin(), ends.end(), Peek(1).text) != ends.end();
      if (ends_here) return base::Status::Ok();
      KVPLANE_RETURN_IF_ERROR(ParseStatement(nodes));
      continue;
    }
    TemplateNode node;
    node.line = Peek().line;
    if (Peek().kind == TokenKind::kText) {
      node.text = Next().text;
    } else {
      node.kind = TemplateNode::Kind::kOutput;
      KVPLANE_RETURN_IF_ERROR(Expect(TokenKind::kOutputBegin, "text or a tag"));
      KVPLANE_ASSIGN_OR_RETURN(node.expr, ParseExpr());
      KVPLANE_RETURN_IF_ERROR(Expect(TokenKind::kOutputEnd, "'}}'"));
    }
    nodes->push_back(std::move(node));
  }
  if (ends.size() > 0) {
    return base::InvalidArgument("line {}: the template ends before '{}'", Peek().line, *(ends.end() - 1));
  }
  return base::Status::Ok();
}

base::Status Parser::ParseStatement(std::vector<TemplateNode>* nodes) {
  TemplateNode node;
  node.line = Peek().line;
  Next();
  KVPLANE_ASSIGN_OR_RETURN(const std::string name, ExpectName());
  if (name == "if") {
    KVPLANE_RETURN_IF_ERROR(ParseIf(&node));
  } else if (name == "for") {
    KVPLANE_RETURN_IF_ERROR(ParseFor(&node));
  } else if (name == "set") {
    KVPLANE_RETURN_IF_ERROR(ParseSet(&node));
  } else if (name.starts_with("end") || name == "else" || name == "elif") {
    return base::InvalidArgument("line {}: '{}' without its beginning", node.line, name);
  } else {
    return base::Unimplemented("line {}: statement '{}'", node.line, name);
  }
  nodes->push_back(std::move(node));
  return base::Status::Ok();
}

base::Status Parser::ParseIf(TemplateNode* node) {
  node->kind = TemplateNode::Kind::kIf;
  bool has_condition = true;
  while (true) {
    TemplateNode::Branch branch;
    if (has_condition) {
      KVPLANE_ASSIGN_OR_RETURN(branch.condition, ParseExpr());
    }
    KVPLANE_RETURN_IF_ERROR(Expect(TokenKind::kTagEnd, "'%}'"));
    KVPLANE_RETURN_IF_ERROR(has_condition ? ParseBody({"elif", "else", "endif"}, &branch.body)
                                          : ParseBody({"endif"}, &branch.body));
    node->branches.push_back(std::move(branch));
    Next();
    const std::string end = Next().text;
    if (end == "endif") return Expect(TokenKind::kTagEnd, "'%}'");
    has_condition = end == "elif";
  }
}

base::Status Parser::ParseFor(TemplateNode* node) {
  node->kind = TemplateNode::Kind::kFor;
  const bool parenthesis = AcceptOperator("(");
  do {
    KVPLANE_ASSIGN_OR_RETURN(std::string name, ExpectName());
    node->names.push_back(std::move(name));
  } while (AcceptOperator(","));
  if (parenthesis) KVPLANE_RETURN_IF_ERROR(ExpectOperator(")"));
  if (node->names.size() > 2) return base::Unimplemented("line {}: for with three or more names", node->line);
  if (!AcceptName("in")) return Unexpected().Annotate("expected 'in'");
  KVPLANE_ASSIGN_OR_RETURN(node->expr, ParseOr());  // "if" here is the filter, not a conditional
  if (AcceptName("if")) {
    KVPLANE_ASSIGN_OR_RETURN(node->filter, ParseExpr());
  }
  if (IsName("recursive")) return base::Unimplemented("line {}: recursive for", node->line);
  KVPLANE_RETURN_IF_ERROR(Expect(TokenKind::kTagEnd, "'%}'"));
  node->branches.emplace_back();
  KVPLANE_RETURN_IF_ERROR(ParseBody({"else", "endfor"}, &node->branches[0].body));
  Next();
  if (Next().text == "else") {
    KVPLANE_RETURN_IF_ERROR(Expect(TokenKind::kTagEnd, "'%}'"));
    node->branches.emplace_back();
    KVPLANE_RETURN_IF_ERROR(ParseBody({"endfor"}, &node->branches[1].body));
    Next();
    Next();
  }
  return Expect(TokenKind::kTagEnd, "'%}'");
}

base::Status Parser::ParseSet(TemplateNode* node) {
  node->kind = TemplateNode::Kind::kSet;
  KVPLANE_ASSIGN_OR_RETURN(std::string name, ExpectName());
  node->names.push_back(std::move(name));
  if (AcceptOperator(".")) {
    KVPLANE_ASSIGN_OR_RETURN(std::string field, ExpectName());
    node->names.push_back(std::move(field));
  }
  if (Peek().kind == TokenKind::kTagEnd) return base::Unimplemented("line {}: block set", node->line);
  if (IsOperator(",")) return base::Unimplemented("line {}: set with several names", node->line);
  KVPLANE_RETURN_IF_ERROR(ExpectOperator("="));
  KVPLANE_ASSIGN_OR_RETURN(node->expr, ParseExpr());
  return Expect(TokenKind::kTagEnd, "'%}'");
}

// --- expressions ---

ExprResult Parser::ParseExpr() {
  const Level level(this);
  KVPLANE_RETURN_IF_ERROR(CheckLevel());
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr expr, ParseOr());
  while (AcceptName("if")) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr condition, ParseOr());
    std::vector<TemplateExprPtr> args = List(std::move(condition), std::move(expr));
    if (AcceptName("else")) {
      KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr otherwise, ParseExpr());
      args.push_back(std::move(otherwise));
    }
    KVPLANE_ASSIGN_OR_RETURN(expr, Make(ExprKind::kConditional, "", std::move(args)));
  }
  return expr;
}

ExprResult Parser::ParseOr() {
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr left, ParseAnd());
  while (AcceptName("or")) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr right, ParseAnd());
    KVPLANE_ASSIGN_OR_RETURN(left, Make(ExprKind::kOr, "", List(std::move(left), std::move(right))));
  }
  return left;
}

ExprResult Parser::ParseAnd() {
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr left, ParseNot());
  while (AcceptName("and")) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr right, ParseNot());
    KVPLANE_ASSIGN_OR_RETURN(left, Make(ExprKind::kAnd, "", List(std::move(left), std::move(right))));
  }
  return left;
}

ExprResult Parser::ParseNot() {
  const Level level(this);
  KVPLANE_RETURN_IF_ERROR(CheckLevel());
  if (!AcceptName("not")) return ParseCompare();
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr operand, ParseNot());
  return Make(ExprKind::kNot, "", List(std::move(operand)));
}

ExprResult Parser::ParseCompare() {
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr first, ParseSum());
  std::vector<std::string> operators;
  std::vector<TemplateExprPtr> operands = List(std::move(first));
  while (true) {
    constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    const TemplateToken& token = Peek();
    if (token.kind == TokenKind::kOperator &&
        std::count(std::begin(kOperators), std::end(kOperators), token.text)) {
      operators.push_back(Next().text);
    } else if (AcceptName("in")) {
      operators.emplace_back("in");
    } else if (IsName("not") && Peek(1).kind == TokenKind::kName && Peek(1).text == "in") {
      at_ += 2;
      operators.emplace_back("not in");
    } else {
      break;
    }
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr operand, ParseSum());
    operands.push_back(std::move(operand));
  }
  if (operators.empty()) return std::move(operands.front());
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr expr, Make(ExprKind::kCompare, "", std::move(operands)));
  expr->names = std::move(operators);
  return expr;
}

ExprResult Parser::ParseBinary(std::initializer_list<std::string_view> operators,
                               ExprResult (Parser::*operand)()) {
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr left, (this->*operand)());
  while (Peek().kind == TokenKind::kOperator &&
         std::find(operators.begin(), operators.end(), Peek().text) != operators.end()) {
    std::string op = Next().text;
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr right, (this->*operand)());
    KVPLANE_ASSIGN_OR_RETURN(left,
                             Make(ExprKind::kBinary, std::move(op), List(std::move(left), std::move(right))));
  }
  return left;
}

ExprResult Parser::ParseSum() { return ParseBinary({"+", "-"}, &Parser::ParseConcat); }
ExprResult Parser::ParseConcat() { return ParseBinary({"~"}, &Parser::ParseProduct); }

ExprResult Parser::ParseProduct() {
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr left, ParseUnary(true));
  while (Peek().kind == TokenKind::kOperator) {
    const std::string_view op = Peek().text;
    if (op == "**") return base::Unimplemented("line {}: operator '**'", Peek().line);
    if (op != "*" && op != "/" && op != "//" && op != "%") break;
    std::string name = Next().text;
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr right, ParseUnary(true));
    KVPLANE_ASSIGN_OR_RETURN(
        left, Make(ExprKind::kBinary, std::move(name), List(std::move(left), std::move(right))));
  }
  return left;
}

// Jinja applies filters after the minus: -1|abs is 1.
ExprResult Parser::ParseUnary(bool with_filters) {
  const Level level(this);
  KVPLANE_RETURN_IF_ERROR(CheckLevel());
  TemplateExprPtr expr;
  if (AcceptOperator("-")) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr operand, ParseUnary(false));
    KVPLANE_ASSIGN_OR_RETURN(expr, Make(ExprKind::kNegate, "", List(std::move(operand))));
  } else if (AcceptOperator("+")) {
    KVPLANE_ASSIGN_OR_RETURN(expr, ParseUnary(false));
  } else {
    KVPLANE_ASSIGN_OR_RETURN(expr, ParsePrimary());
    KVPLANE_ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  }
  return with_filters ? ParseFilters(std::move(expr)) : ExprResult(std::move(expr));
}

ExprResult Parser::ParseNumber() {
  const TemplateToken token = Next();
  const char* const begin = token.text.data();
  const char* const end = begin + token.text.size();
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr expr, Make(ExprKind::kLiteral, "", {}));
  int64_t integer = 0;
  double real = 0.0;
  const bool is_int = token.kind == TokenKind::kInt;
  const auto parsed = is_int ? std::from_chars(begin, end, integer) : std::from_chars(begin, end, real);
  if (parsed.ec != std::errc() || parsed.ptr != end) {
    return base::InvalidArgument("line {}: number '{}' is out of range", token.line, token.text);
  }
  expr->value = is_int ? TemplateValue::Int(integer) : TemplateValue::Float(real);
  return expr;
}

ExprResult Parser::ParsePrimary() {
  const TemplateToken& token = Peek();
  if (token.kind == TokenKind::kInt || token.kind == TokenKind::kFloat) return ParseNumber();
  if (token.kind == TokenKind::kString) {
    std::string text;
    while (Peek().kind == TokenKind::kString) text += Next().text;  // adjacent strings are one
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr expr, Make(ExprKind::kLiteral, "", {}));
    expr->value = TemplateValue::String(std::move(text));
    return expr;
  }
  if (token.kind == TokenKind::kName) {
    std::string name = Next().text;
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr expr, Make(ExprKind::kName, name, {}));
    const bool is_true = name == "true" || name == "True";
    const bool is_constant =
        is_true || name == "false" || name == "False" || name == "none" || name == "None";
    if (is_constant) {
      expr->kind = ExprKind::kLiteral;
      expr->value = name == "none" || name == "None" ? TemplateValue::None() : TemplateValue::Bool(is_true);
    }
    return expr;
  }
  if (AcceptOperator("[")) return ParseList("]");
  if (AcceptOperator("{")) return ParseDict();
  if (!AcceptOperator("(")) return Unexpected();
  if (IsOperator(")")) return ParseList(")");
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr expr, ParseExpr());
  if (AcceptOperator(")")) return expr;
  KVPLANE_RETURN_IF_ERROR(ExpectOperator(","));  // a tuple, which is a list to us
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr rest, ParseList(")"));
  rest->args.insert(rest->args.begin(), std::move(expr));
  return Finish(std::move(rest));
}

ExprResult Parser::ParseList(std::string_view close) {
  std::vector<TemplateExprPtr> items;
  while (!AcceptOperator(close)) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr item, ParseExpr());
    items.push_back(std::move(item));
    if (!IsOperator(close)) KVPLANE_RETURN_IF_ERROR(ExpectOperator(","));
  }
  return Make(ExprKind::kList, "", std::move(items));
}

ExprResult Parser::ParseDict() {
  std::vector<TemplateExprPtr> items;
  while (!AcceptOperator("}")) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr key, ParseExpr());
    KVPLANE_RETURN_IF_ERROR(ExpectOperator(":"));
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr value, ParseExpr());
    items.push_back(std::move(key));
    items.push_back(std::move(value));
    if (!IsOperator("}")) KVPLANE_RETURN_IF_ERROR(ExpectOperator(","));
  }
  return Make(ExprKind::kDict, "", std::move(items));
}

ExprResult Parser::ParsePostfix(TemplateExprPtr expr) {
  while (true) {
    if (AcceptOperator(".")) {
      KVPLANE_ASSIGN_OR_RETURN(expr, ParseMember(std::move(expr)));
    } else if (AcceptOperator("[")) {
      KVPLANE_ASSIGN_OR_RETURN(expr, ParseSubscript(std::move(expr)));
    } else if (AcceptOperator("(")) {
      KVPLANE_ASSIGN_OR_RETURN(expr, ParseFunction(std::move(expr)));
    } else {
      return expr;
    }
  }
}

ExprResult Parser::ParseMember(TemplateExprPtr object) {
  const int line = Peek().line;
  KVPLANE_ASSIGN_OR_RETURN(std::string name, ExpectName());
  if (AcceptOperator("(")) {
    if (!IsTemplateMethod(name)) return base::Unimplemented("line {}: method '{}'", line, name);
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr call, Make(ExprKind::kMethod, name, List(std::move(object))));
    KVPLANE_RETURN_IF_ERROR(ParseArguments(call.get(), /*keywords=*/false));
    return Finish(std::move(call));
  }
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr key, Make(ExprKind::kLiteral, "", {}));
  key->value = TemplateValue::String(std::move(name));
  return Make(ExprKind::kIndex, "", List(std::move(object), std::move(key)));
}

ExprResult Parser::ParseSubscript(TemplateExprPtr object) {
  std::vector<TemplateExprPtr> parts(1);
  bool is_slice = false;
  while (!AcceptOperator("]")) {
    if (AcceptOperator(":")) {
      is_slice = true;
      parts.emplace_back();
      if (parts.size() > 3) return Unexpected();
      continue;
    }
    if (parts.back() != nullptr) return Unexpected();
    KVPLANE_ASSIGN_OR_RETURN(parts.back(), ParseExpr());
  }
  if (!is_slice) {
    if (parts[0] == nullptr) return Unexpected().Annotate("expected an index");
    return Make(ExprKind::kIndex, "", List(std::move(object), std::move(parts[0])));
  }
  parts.resize(3);
  parts.insert(parts.begin(), std::move(object));
  return Make(ExprKind::kSlice, "", std::move(parts));
}

ExprResult Parser::ParseFunction(TemplateExprPtr callee) {
  const int line = callee->line;
  if (callee->kind != ExprKind::kName) return base::Unimplemented("line {}: call of an expression", line);
  if (!IsTemplateFunction(callee->name))
    return base::Unimplemented("line {}: function '{}'", line, callee->name);
  callee->kind = ExprKind::kFunction;
  KVPLANE_RETURN_IF_ERROR(ParseArguments(callee.get(), /*keywords=*/true));
  return Finish(std::move(callee));
}

// Behind "(", up to and with ")".
base::Status Parser::ParseArguments(TemplateExpr* call, bool keywords) {
  while (!AcceptOperator(")")) {
    if (Peek().kind == TokenKind::kName && Peek(1).kind == TokenKind::kOperator && Peek(1).text == "=") {
      if (!keywords) return base::Unimplemented("line {}: keyword argument '{}'", Peek().line, Peek().text);
      call->names.push_back(Next().text);
      Next();
    } else if (!call->names.empty()) {
      return base::InvalidArgument("line {}: positional argument behind a keyword", Peek().line);
    }
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr value, ParseExpr());
    call->args.push_back(std::move(value));
    if (!IsOperator(")")) KVPLANE_RETURN_IF_ERROR(ExpectOperator(","));
  }
  return base::Status::Ok();
}

ExprResult Parser::ParseFilters(TemplateExprPtr expr) {
  while (true) {
    if (AcceptOperator("|")) {
      KVPLANE_ASSIGN_OR_RETURN(expr, ParseFilter(std::move(expr)));
    } else if (AcceptName("is")) {
      KVPLANE_ASSIGN_OR_RETURN(expr, ParseTest(std::move(expr)));
    } else {
      return expr;
    }
  }
}

ExprResult Parser::ParseFilter(TemplateExprPtr operand) {
  const int line = Peek().line;
  KVPLANE_ASSIGN_OR_RETURN(const std::string name, ExpectName());
  if (!IsTemplateFilter(name)) return base::Unimplemented("line {}: filter '{}'", line, name);
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr filter, Make(ExprKind::kFilter, name, List(std::move(operand))));
  if (AcceptOperator("(")) KVPLANE_RETURN_IF_ERROR(ParseArguments(filter.get(), /*keywords=*/true));
  return Finish(std::move(filter));
}

ExprResult Parser::ParseTest(TemplateExprPtr operand) {
  const bool negated = AcceptName("not");
  const int line = Peek().line;
  KVPLANE_ASSIGN_OR_RETURN(const std::string name, ExpectName());
  if (!IsTemplateTest(name)) return base::Unimplemented("line {}: test '{}'", line, name);
  KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr test, Make(ExprKind::kTest, name, List(std::move(operand))));
  if (AcceptOperator("(")) {
    KVPLANE_RETURN_IF_ERROR(ParseArguments(test.get(), /*keywords=*/false));
  } else if (TemplateTestTakesArgument(name)) {
    KVPLANE_ASSIGN_OR_RETURN(TemplateExprPtr argument, ParsePrimary());
    KVPLANE_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->args.push_back(std::move(argument));
  }
  KVPLANE_ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  return negated ? Make(ExprKind::kNot, "", List(std::move(test))) : ExprResult(std::move(test));
}

}  // namespace

base::Result<TemplateProgram> ParseTemplate(std::string_view source) {
  KVPLANE_ASSIGN_OR_RETURN(std::vector<TemplateToken> tokens, LexTemplate(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace kvplane::model
