#include "kvplane/store/replay/block_trace.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <unordered_set>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/json_depth.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/replay/line_reader.h"

namespace kvplane::store {
namespace {

using Json = nlohmann::json;

constexpr uint32_t kMooncakeBlockTokens = 512;
constexpr uint32_t kAgentBlockTokens = 64;
constexpr uint32_t kMaxBlockTokens = 65'536;
// Blocks of one prompt and of all sessions together; a replay keeps a node per block.
constexpr uint64_t kMaxPromptBlocks = 1 << 22;
constexpr uint64_t kMaxBlocks = 1ull << 28;
constexpr uint32_t kMaxTokens = 1 << 28;

// An unsigned field of at most `limit`.
base::Result<uint64_t> Count(const Json& object, const char* field, uint64_t limit) {
  const auto at = object.find(field);
  if (at == object.end() || !at->is_number_unsigned() || at->get<uint64_t>() > limit) {
    return base::Corrupt("\"{}\" must be a whole number, at most {}", field, limit);
  }
  return at->get<uint64_t>();
}

base::Result<double> Seconds(const Json& object, const char* field) {
  const auto at = object.find(field);
  if (at == object.end() || !at->is_number() || !(at->get<double>() >= 0)) {
    return base::Corrupt("\"{}\" must be a number, at least 0", field);
  }
  return at->get<double>();
}

base::Result<Json> ParseObject(const std::string& line) {
  if (base::NestsTooDeep(line)) return base::Corrupt("nests too deep");
  Json parsed = Json::parse(line, nullptr, false);
  if (!parsed.is_object()) return base::Corrupt("not a JSON object");
  return parsed;
}

class TraceBuilder {
 public:
  explicit TraceBuilder(TraceFormat format) { trace_.format = format; }

  // `offset` is added to the runs' numbers.
  base::Status Add(TraceRequest request, std::span<const BlockRun> runs, uint64_t offset) {
    request.first_run = static_cast<uint32_t>(trace_.runs.size());
    request.run_count = static_cast<uint32_t>(runs.size());
    uint64_t blocks = 0;
    for (const BlockRun& run : runs) {
      const uint64_t end = offset + run.first + run.count;
      blocks += run.count;
      if (end > kMaxBlocks || blocks > kMaxPromptBlocks) return base::Corrupt("more blocks than can be");
      trace_.runs.push_back({.first = static_cast<uint32_t>(offset + run.first), .count = run.count});
      trace_.block_bound = std::max(trace_.block_bound, static_cast<uint32_t>(end));
    }
    if (std::max(trace_.runs.size(), trace_.requests.size()) >= std::numeric_limits<uint32_t>::max()) {
      return base::Corrupt("too many requests");
    }
    trace_.blocks += blocks;
    trace_.requests.push_back(request);
    return base::Status::Ok();
  }

  BlockTrace& trace() { return trace_; }
  BlockTrace Finish() && {
    std::vector<uint32_t> order(trace_.requests.size());
    std::iota(order.begin(), order.end(), 0u);
    // Equals by place: what std::stable_sort gives, which clang-19 does not compile with libstdc++ 12.
    std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
      const double time_a = trace_.requests[a].time_s, time_b = trace_.requests[b].time_s;
      return time_a != time_b ? time_a < time_b : a < b;
    });
    std::vector<TraceRequest> sorted;
    sorted.reserve(order.size());
    for (const uint32_t at : order) sorted.push_back(trace_.requests[at]);
    trace_.requests = std::move(sorted);
    return std::move(trace_);
  }

 private:
  BlockTrace trace_;
};

base::Result<TraceRequest> LengthsOf(const Json& entry, const char* input, const char* output) {
  TraceRequest request;
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t in, Count(entry, input, kMaxTokens));
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t out, Count(entry, output, kMaxTokens));
  request.input_tokens = static_cast<uint32_t>(in);
  request.output_tokens = static_cast<uint32_t>(out);
  return request;
}

base::Status AddMooncake(const std::string& line, TraceBuilder& builder) {
  KVPLANE_ASSIGN_OR_RETURN(const Json entry, ParseObject(line));
  KVPLANE_ASSIGN_OR_RETURN(TraceRequest request, LengthsOf(entry, "input_length", "output_length"));
  KVPLANE_ASSIGN_OR_RETURN(const double milliseconds, Seconds(entry, "timestamp"));
  request.time_s = milliseconds / 1e3;
  const auto ids = entry.find("hash_ids");
  if (ids == entry.end() || !ids->is_array()) return base::Corrupt("\"hash_ids\" must be a list");
  std::vector<BlockRun> runs;
  for (const Json& id : *ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxBlocks) {
      return base::Corrupt("\"hash_ids\" must hold whole numbers below {}", kMaxBlocks);
    }
    const auto block = id.get<uint32_t>();
    if (!runs.empty() && runs.back().first + runs.back().count == block) {
      ++runs.back().count;
    } else {
      runs.push_back({.first = block, .count = 1});
    }
  }
  return builder.Add(request, runs, 0);
}

base::Result<std::vector<BlockRun>> RunsOfRle(const Json& entry) {
  const auto rle = entry.find("hash_rle");
  if (rle == entry.end() || !rle->is_array()) return base::Corrupt("\"hash_rle\" must be a list");
  std::vector<BlockRun> runs;
  for (const Json& pair : *rle) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() ||
        !pair[1].is_number_unsigned() || pair[0].get<uint64_t>() >= kMaxBlocks ||
        pair[1].get<uint64_t>() > kMaxPromptBlocks) {
      return base::Corrupt("\"hash_rle\" must hold pairs [first, count]");
    }
    runs.push_back({.first = pair[0].get<uint32_t>(), .count = pair[1].get<uint32_t>()});
  }
  return runs;
}

// A session on the time axis and in the numbering of the whole trace.
struct SessionPlace {
  double start_s = 0;
  uint64_t first_block = 0;
  uint32_t session = 0;
};

base::Status AddAgentRequests(const Json& requests, const SessionPlace& place, bool nested,
                              TraceBuilder& builder) {
  if (!requests.is_array()) return base::Corrupt("\"requests\" must be a list");
  for (const Json& entry : requests) {
    if (!entry.is_object()) return base::Corrupt("a request must be an object");
    KVPLANE_ASSIGN_OR_RETURN(const double t, Seconds(entry, "t"));
    SessionPlace at = place;
    at.start_s += t;
    if (const auto inner = entry.find("requests"); inner != entry.end()) {
      if (nested) return base::Corrupt("a sub-agent inside of a sub-agent");
      KVPLANE_RETURN_IF_ERROR(AddAgentRequests(*inner, at, true, builder));
      continue;
    }
    KVPLANE_ASSIGN_OR_RETURN(TraceRequest request, LengthsOf(entry, "in", "out"));
    request.time_s = at.start_s;
    request.session = place.session;
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<BlockRun> runs, RunsOfRle(entry));
    KVPLANE_RETURN_IF_ERROR(builder.Add(request, runs, place.first_block));
  }
  return base::Status::Ok();
}

class AgentSessions {
 public:
  explicit AgentSessions(const TraceOptions& options) : gap_s_(options.session_gap_s), rng_(options.seed) {}

  base::Status Add(const std::string& line, TraceBuilder& builder) {
    KVPLANE_ASSIGN_OR_RETURN(const Json session, ParseObject(line));
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t block, Count(session, "block_size", kMaxBlockTokens));
    BlockTrace& trace = builder.trace();
    if (trace.sessions > 0 && block != trace.block_tokens) return base::Corrupt("block sizes differ");
    const auto requests = session.find("requests");
    if (requests == session.end()) return base::Corrupt("a session without requests");
    if (!seen_.insert(std::hash<std::string>()(requests->dump())).second) {
      ++trace.dropped_sessions;
      return base::Status::Ok();
    }
    trace.block_tokens = static_cast<uint32_t>(block);
    const SessionPlace place{
        .start_s = start_s_, .first_block = trace.block_bound, .session = trace.sessions};
    ++trace.sessions;
    start_s_ += -std::log(1 - rng_.Uniform()) * gap_s_;
    return AddAgentRequests(*requests, place, false, builder);
  }

 private:
  const double gap_s_;
  base::Rng rng_;
  double start_s_ = 0;
  std::unordered_set<size_t> seen_;  // hashes of the requests of sessions
};

// "2023-11-16 18:15:46.6805900": seconds since the midnight before the first row, across midnights by the
// day of the month's change.
base::Result<double> AzureSeconds(std::string_view text) {
  const auto number = [&](size_t at, size_t digits) -> int {
    int value = -1;
    const char* const begin = text.data() + at;
    const auto parsed = std::from_chars(begin, begin + digits, value);
    return parsed.ptr == begin + digits ? value : -1;
  };
  if (text.size() < 19) return base::Corrupt("not a time stamp");
  const int day = number(8, 2), hour = number(11, 2), minute = number(14, 2), second = number(17, 2);
  if (day < 1 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60) {
    return base::Corrupt("not a time stamp");
  }
  double fraction = 0;
  double digit = 0.1;
  for (size_t at = 20; at < text.size(); ++at, digit /= 10) {
    if (text[at] < '0' || text[at] > '9') return base::Corrupt("not a time stamp");
    fraction += digit * (text[at] - '0');
  }
  return ((day * 24.0 + hour) * 60 + minute) * 60 + second + fraction;
}

base::Status AddAzure(const std::string& line, TraceBuilder& builder) {
  const size_t first = line.find(',');
  const size_t second = first == std::string::npos ? first : line.find(',', first + 1);
  if (second == std::string::npos) return base::Corrupt("three columns are needed");
  const auto tokens = [&](size_t begin, size_t end) -> std::optional<uint32_t> {
    uint32_t value = 0;
    const auto parsed = std::from_chars(line.data() + begin, line.data() + end, value);
    if (parsed.ec != std::errc() || parsed.ptr != line.data() + end || value > kMaxTokens)
      return std::nullopt;
    return value;
  };
  const auto in = tokens(first + 1, second);
  const auto out = tokens(second + 1, line.size());
  if (!in.has_value() || !out.has_value()) return base::Corrupt("token counts must be whole numbers");
  TraceRequest request{.input_tokens = *in, .output_tokens = *out};
  KVPLANE_ASSIGN_OR_RETURN(request.time_s, AzureSeconds(std::string_view(line).substr(0, first)));
  const BlockRun run{.first = 0, .count = *in / kMooncakeBlockTokens};
  return builder.Add(request, std::span(&run, run.count == 0 ? 0 : 1), builder.trace().block_bound);
}

base::Status AddLine(const std::string& line, AgentSessions& sessions, TraceBuilder& builder) {
  switch (builder.trace().format) {
    case TraceFormat::kMooncake:
      return AddMooncake(line, builder);
    case TraceFormat::kAgent:
      return sessions.Add(line, builder);
    case TraceFormat::kAzure:
      return AddAzure(line, builder);
  }
  KVPLANE_CHECK(false);
}

}  // namespace

std::string_view Name(TraceFormat format) {
  switch (format) {
    case TraceFormat::kMooncake:
      return "mooncake";
    case TraceFormat::kAgent:
      return "agent";
    case TraceFormat::kAzure:
      return "azure";
  }
  KVPLANE_CHECK(false);
}

base::Result<TraceFormat> ParseTraceFormat(std::string_view text) {
  for (const TraceFormat format : {TraceFormat::kMooncake, TraceFormat::kAgent, TraceFormat::kAzure}) {
    if (text == Name(format)) return format;
  }
  return base::InvalidArgument("trace format \"{}\": mooncake, agent or azure", text);
}

base::Result<TraceFormat> GuessTraceFormat(std::string_view path) {
  const std::string_view name = path.substr(path.find_last_of('/') + 1);
  for (const TraceFormat format : {TraceFormat::kMooncake, TraceFormat::kAgent, TraceFormat::kAzure}) {
    if (name.find(Name(format)) != std::string_view::npos) return format;
  }
  return base::InvalidArgument("the name {} does not tell its format: give --format", name);
}

base::Result<BlockTrace> ReadTrace(const std::string& path, TraceFormat format, const TraceOptions& options) {
  KVPLANE_ASSIGN_OR_RETURN(const auto lines, LineReader::Open(path));
  TraceBuilder builder(format);
  AgentSessions sessions(options);
  builder.trace().block_tokens = format == TraceFormat::kAgent ? kAgentBlockTokens : kMooncakeBlockTokens;
  builder.trace().has_prefixes = format != TraceFormat::kAzure;
  for (uint64_t number = 1;; ++number) {
    KVPLANE_ASSIGN_OR_RETURN(const std::optional<std::string> line, lines->Next());
    if (!line.has_value()) break;
    const bool header = format == TraceFormat::kAzure && number == 1 && line->starts_with("TIMESTAMP");
    if (line->empty() || header) continue;
    if (const base::Status added = AddLine(*line, sessions, builder); !added.ok()) {
      return added.Annotate(fmt::format("{}, line {}", path, number));
    }
  }
  if (builder.trace().requests.empty()) return base::Corrupt("{} holds no requests", path);
  return std::move(builder).Finish();
}

}  // namespace kvplane::store
