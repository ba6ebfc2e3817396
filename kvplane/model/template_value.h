// TemplateValue: what an expression of a chat template evaluates to.
//
// Values are immutable and shared; namespaces, the one mutable thing, live in the renderer and are named
// by their number, so values never form cycles. Depth and weight are fixed when a container is made and
// bounded, so recursion over a value and its destruction are bounded too.
//
// Thread safety: values are immutable; copies may be used from many threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::model {

class TemplateValue {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kNamespace };
  using List = std::vector<TemplateValue>;
  using Dict = std::vector<std::pair<std::string, TemplateValue>>;  // insertion order, few entries

  // Containers nested deeper, or with more values in all, are kResourceExhausted.
  static constexpr size_t kMaxDepth = 32;
  static constexpr size_t kMaxWeight = 1'000'000;

  TemplateValue() = default;  // undefined
  static TemplateValue None() { return TemplateValue(Data(NoneTag())); }
  static TemplateValue Bool(bool value) { return TemplateValue(Data(value)); }
  static TemplateValue Int(int64_t value) { return TemplateValue(Data(value)); }
  static TemplateValue Float(double value) { return TemplateValue(Data(value)); }
  static TemplateValue String(std::string value);
  static TemplateValue Namespace(size_t number) { return TemplateValue(Data(NamespaceTag{number})); }
  static base::Result<TemplateValue> FromList(List items);
  static base::Result<TemplateValue> FromDict(Dict items);

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is(Kind kind_wanted) const { return kind() == kind_wanted; }
  // "a string", "none", ... for error messages.
  std::string_view KindName() const;

  // Each requires that kind.
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const { return std::get<int64_t>(data_); }
  double as_float() const { return std::get<double>(data_); }
  const std::string& as_string() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const List& as_list() const { return std::get<std::shared_ptr<const ListBox>>(data_)->items; }
  const Dict& as_dict() const { return std::get<std::shared_ptr<const DictBox>>(data_)->items; }
  size_t namespace_number() const { return std::get<NamespaceTag>(data_).number; }

  // Python's truth: empty, zero, none and undefined are false.
  bool Truthy() const;
  // Values in it, itself included; a string counts one per 32 bytes.
  size_t weight() const;
  // bool and int count as numbers. `number` is set when true.
  bool AsNumber(double* number) const;

 private:
  struct NoneTag {};
  struct NamespaceTag {
    size_t number;
  };
  struct ListBox {
    List items;
    size_t depth;
    size_t weight;
  };
  struct DictBox {
    Dict items;
    size_t depth;
    size_t weight;
  };
  // In the order of Kind.
  using Data =
      std::variant<std::monostate, NoneTag, bool, int64_t, double, std::shared_ptr<const std::string>,
                   std::shared_ptr<const ListBox>, std::shared_ptr<const DictBox>, NamespaceTag>;

  explicit TemplateValue(Data data) : data_(std::move(data)) {}
  size_t depth() const;

  Data data_;
};

// The entry, or null.
const TemplateValue* FindEntry(const TemplateValue::Dict& dict, std::string_view key);

// Python's ==: numbers by value, containers by their items.
bool Equal(const TemplateValue& a, const TemplateValue& b);

// Python's str(): text for output. kInvalidArgument for containers, which no template should print.
base::Result<std::string> ToText(const TemplateValue& value);

// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: one line.
base::Result<std::string> ToJson(const TemplateValue& value, int indent);

}  // namespace kvplane::model
