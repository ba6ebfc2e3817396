// Status and Result<T>: the one error currency across library boundaries.
//
// A Status is OK or a code plus a message that says what was wrong, where, and what to do.
// Input, network and disk bytes always end in a Status; KVPLANE_CHECK (check.h) is for our own
// bugs only. Built on std::string_view, not absl::Status: Debian's Abseil has its own string_view.
//
// Thread safety: values; const access from many threads is safe.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace kvplane::base {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,     // the caller passed something illegal (HTTP 400, exit 2)
  kNotFound,            // it does not exist (HTTP 404)
  kCorrupt,             // bytes do not hold what they claim (exit 3)
  kUnavailable,         // the other side is not there; a retry may help (HTTP 503)
  kDeadlineExceeded,    // a wait ran out
  kCancelled,           // the caller withdrew
  kResourceExhausted,   // a named bound was hit (HTTP 429 or 413, exit 4)
  kUnimplemented,       // legal, but not supported here
  kFailedPrecondition,  // not in this state
  kPermissionDenied,    // authentication or authorisation failed
  kInternal,            // our own bug, or the operating system failed us
};

// "invalid argument", "corrupt", ...
std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status Ok() { return {}; }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // "corrupt: tile 3 of layer 2: CRC32C mismatch"; "ok" when ok.
  std::string ToString() const;

  // The same error with "context: " before its message; OK stays OK.
  Status Annotate(std::string_view context) const;

  bool operator==(const Status&) const = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// A T or the Status that explains its absence (never an OK status).
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                             // NOLINT: implicit
  Result(Status status) : value_(tl::make_unexpected(std::move(status))) {  // NOLINT: implicit
    if (value_.error().ok()) {
      value_ = tl::make_unexpected(Status(StatusCode::kInternal, "Result built from an OK status"));
    }
  }

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }

  // Requires ok().
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return *std::move(value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

  // OK when a value is held.
  Status status() const { return ok() ? Status() : value_.error(); }

 private:
  tl::expected<T, Status> value_;
};

#define KVPLANE_DEFINE_STATUS_FACTORY(Name, code)                          \
  template <typename... Args>                                              \
  Status Name(fmt::format_string<Args...> format, Args&&... args) {        \
    return Status(code, fmt::format(format, std::forward<Args>(args)...)); \
  }
KVPLANE_DEFINE_STATUS_FACTORY(InvalidArgument, StatusCode::kInvalidArgument)
KVPLANE_DEFINE_STATUS_FACTORY(NotFound, StatusCode::kNotFound)
KVPLANE_DEFINE_STATUS_FACTORY(Corrupt, StatusCode::kCorrupt)
KVPLANE_DEFINE_STATUS_FACTORY(Unavailable, StatusCode::kUnavailable)
KVPLANE_DEFINE_STATUS_FACTORY(DeadlineExceeded, StatusCode::kDeadlineExceeded)
KVPLANE_DEFINE_STATUS_FACTORY(Cancelled, StatusCode::kCancelled)
KVPLANE_DEFINE_STATUS_FACTORY(ResourceExhausted, StatusCode::kResourceExhausted)
KVPLANE_DEFINE_STATUS_FACTORY(Unimplemented, StatusCode::kUnimplemented)
KVPLANE_DEFINE_STATUS_FACTORY(FailedPrecondition, StatusCode::kFailedPrecondition)
KVPLANE_DEFINE_STATUS_FACTORY(PermissionDenied, StatusCode::kPermissionDenied)
KVPLANE_DEFINE_STATUS_FACTORY(Internal, StatusCode::kInternal)
#undef KVPLANE_DEFINE_STATUS_FACTORY

}  // namespace kvplane::base

#define KVPLANE_CONCAT_INNER(a, b) a##b
#define KVPLANE_CONCAT(a, b) KVPLANE_CONCAT_INNER(a, b)

// Returns the Status of `expression` from the enclosing function unless it is OK.
#define KVPLANE_RETURN_IF_ERROR(expression)                                            \
  do {                                                                                 \
    if (::kvplane::base::Status kvplane_status = (expression); !kvplane_status.ok()) { \
      return kvplane_status;                                                           \
    }                                                                                  \
  } while (false)

// KVPLANE_ASSIGN_OR_RETURN(auto model, Model::Load(path));
#define KVPLANE_ASSIGN_OR_RETURN(declaration, expression) \
  KVPLANE_ASSIGN_OR_RETURN_INNER(KVPLANE_CONCAT(kvplane_result_, __LINE__), declaration, expression)
#define KVPLANE_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                           \
  if (!result.ok()) return result.status();                             \
  declaration = *std::move(result)
