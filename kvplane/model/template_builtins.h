// The filters, tests, methods and functions of chat templates, and the budget they work under.
//
// Thread safety: pure functions apart from the budget, which belongs to one rendering.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/template_value.h"

namespace kvplane::model {

// What one rendering may use. Real templates need some thousand steps per message, and a few copies of the
// conversation.
class TemplateBudget {
 public:
  static constexpr size_t kMaxSteps = 4'000'000;
  static constexpr size_t kMaxBytes = size_t{128} << 20;  // of all strings made on the way

  // kResourceExhausted when used up.
  base::Status Steps(size_t count);
  base::Status Bytes(size_t count);

 private:
  size_t steps_left_ = kMaxSteps;
  size_t bytes_left_ = kMaxBytes;
};

struct TemplateCall {
  std::string_view name;
  std::span<const TemplateValue> args;  // args[0]: the operand of a filter or test, the object of a method
  std::span<const std::pair<std::string, TemplateValue>> keywords;
  TemplateBudget* budget;
};

bool IsTemplateFunction(std::string_view name);
bool IsTemplateFilter(std::string_view name);
bool IsTemplateTest(std::string_view name);
bool IsTemplateMethod(std::string_view name);
// "x is eq y" may do without parentheses.
bool TemplateTestTakesArgument(std::string_view name);

// The name must be known. kInvalidArgument: wrong arguments, kResourceExhausted: the budget.
base::Result<TemplateValue> CallFilter(const TemplateCall& call);
base::Result<bool> CallTest(const TemplateCall& call);
base::Result<TemplateValue> CallMethod(const TemplateCall& call);

// Python's `needle in haystack`.
base::Result<bool> Contains(const TemplateValue& haystack, const TemplateValue& needle,
                            TemplateBudget* budget);

// What a for loop or a filter iterates: items, the keys of a dictionary, the characters of a string; nothing
// for an undefined value.
base::Result<TemplateValue::List> ItemsOf(const TemplateValue& value, TemplateBudget* budget);

}  // namespace kvplane::model
