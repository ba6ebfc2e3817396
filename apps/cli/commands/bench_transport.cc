#include "apps/cli/commands/bench_transport.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "kvplane/base/units.h"
#include "kvplane/stats/quantile.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/file_descriptor.h"
#include "kvplane/transport/ucx_transport.h"

namespace kvplane::cli {
namespace {

constexpr auto kPatience = std::chrono::minutes(2);
constexpr size_t kMaxFrameBytes = 64 << 20;
constexpr uint32_t kMaxConnections = 64;

// Any text of its length: both ends are in this process.
constexpr const char* kToken = "a-token-that-only-this-bench-uses";

double Median(const std::vector<double>& values) { return stats::Quantile(values, 0.5); }
base::TimePoint Limit() { return base::Clock::System().Now() + kPatience; }

struct Work {
  size_t frame_bytes = 0;
  size_t frames = 0;  // on each connection
};

struct Timing {
  double wall_s = 0;
  double send_cpu_s = 0;  // all sending threads together
  double receive_cpu_s = 0;
};

// One connection between two threads of this process.
class Lane {
 public:
  virtual ~Lane() = default;
  virtual base::Status Send(std::span<const std::byte> frame) = 0;
  virtual base::Status Receive(std::span<std::byte> frame) = 0;
};

class PlainLane final : public Lane {
 public:
  static base::Result<std::unique_ptr<Lane>> Connect() {
    transport::FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const where = reinterpret_cast<sockaddr*>(&address);
    auto lane = std::make_unique<PlainLane>();
    lane->sending_ = transport::FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(listener.get(), where, size) != 0 || ::listen(listener.get(), 1) != 0 ||
        ::getsockname(listener.get(), where, &size) != 0 ||
        ::connect(lane->sending_.get(), where, size) != 0) {
      return base::Unavailable("plain sockets: {}", transport::ErrnoText(errno));
    }
    lane->receiving_ = transport::FileDescriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!lane->receiving_.valid()) return base::Unavailable("accept: {}", transport::ErrnoText(errno));
    const timeval patience{std::chrono::seconds(kPatience).count(), 0};
    for (const int socket : {lane->sending_.get(), lane->receiving_.get()}) {
      if (::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0 ||
          ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0) {
        return base::Internal("socket timeouts: {}", transport::ErrnoText(errno));
      }
    }
    return std::unique_ptr<Lane>(std::move(lane));
  }

  base::Status Send(std::span<const std::byte> frame) override {
    while (!frame.empty()) {
      const ssize_t sent = ::send(sending_.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
      if (sent < 0) return base::Unavailable("send: {}", transport::ErrnoText(errno));
      frame = frame.subspan(static_cast<size_t>(sent));
    }
    return base::Status::Ok();
  }
  base::Status Receive(std::span<std::byte> frame) override {
    while (!frame.empty()) {
      const ssize_t got = ::recv(receiving_.get(), frame.data(), frame.size(), 0);
      if (got <= 0) return base::Unavailable("recv: {}", transport::ErrnoText(errno));
      frame = frame.subspan(static_cast<size_t>(got));
    }
    return base::Status::Ok();
  }

 private:
  transport::FileDescriptor sending_;
  transport::FileDescriptor receiving_;
};

class TransportLane final : public Lane {
 public:
  static base::Result<std::unique_ptr<Lane>> Connect(transport::Transport& transport,
                                                     transport::Listener& listener) {
    auto lane = std::make_unique<TransportLane>();
    KVPLANE_ASSIGN_OR_RETURN(lane->sending_, transport.Connect(listener.endpoint(), Limit()));
    KVPLANE_ASSIGN_OR_RETURN(lane->receiving_, listener.Accept(Limit()));
    return std::unique_ptr<Lane>(std::move(lane));
  }

  base::Status Send(std::span<const std::byte> frame) override {
    const base::Status status = sending_->Write({&frame, 1}, Limit());
    if (!status.ok()) sending_->Shutdown();  // so that the other thread ends too
    return status;
  }
  base::Status Receive(std::span<std::byte> frame) override {
    const base::Status status = receiving_->Read(frame, Limit());
    if (!status.ok()) receiving_->Shutdown();
    return status;
  }

 private:
  std::unique_ptr<transport::Stream> sending_;
  std::unique_ptr<transport::Stream> receiving_;
};

// Repeats `step` as often as there are frames; CPU time of the thread in seconds.
base::Status Repeat(const Work& work, double& cpu_s, const std::function<base::Status()>& step) {
  const base::Duration start = base::ThreadCpuTime();
  for (size_t i = 0; i < work.frames; ++i) KVPLANE_RETURN_IF_ERROR(step());
  cpu_s = base::ToSeconds(base::ThreadCpuTime() - start);
  return base::Status::Ok();
}

base::Result<Timing> Move(std::span<const std::unique_ptr<Lane>> lanes, const Work& work) {
  struct End {
    std::vector<std::byte> frame;
    double cpu_s = 0;
    base::Status status;
  };
  std::vector<End> sending(lanes.size());
  std::vector<End> receiving(lanes.size());
  for (End& end : sending) end.frame.assign(work.frame_bytes, std::byte{0x5a});
  for (End& end : receiving) end.frame.assign(work.frame_bytes, std::byte{0});
  const base::TimePoint start = base::Clock::System().Now();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < lanes.size(); ++i) {
    threads.emplace_back([&, i] {
      End& end = receiving[i];
      end.status = Repeat(work, end.cpu_s, [&] { return lanes[i]->Receive(end.frame); });
    });
    threads.emplace_back([&, i] {
      End& end = sending[i];
      end.status = Repeat(work, end.cpu_s, [&] { return lanes[i]->Send(end.frame); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  Timing timing;
  timing.wall_s = base::ToSeconds(base::Clock::System().Now() - start);
  for (size_t i = 0; i < lanes.size(); ++i) {
    KVPLANE_RETURN_IF_ERROR(sending[i].status);
    KVPLANE_RETURN_IF_ERROR(receiving[i].status);
    if (receiving[i].frame != sending[i].frame) return base::Internal("other bytes arrived");
    timing.send_cpu_s += sending[i].cpu_s;
    timing.receive_cpu_s += receiving[i].cpu_s;
  }
  return timing;
}

// One row of the table: lanes of one kind, open for the whole run.
struct Contender {
  std::string name;
  std::unique_ptr<transport::Transport> transport;  // null: plain sockets
  std::unique_ptr<transport::Listener> listener;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<double> bits_per_s, over_plain, send_ns, receive_ns;  // of the frame size under way
};

base::Result<Contender> MakeContender(const std::string& spec, const transport::TransportSecurity& security,
                                      uint32_t connections) {
  Contender out;
  if (spec.empty()) {
    out.name = "plain socket copy";
  } else {
    KVPLANE_ASSIGN_OR_RETURN(out.transport, transport::CreateTransport(spec, security));
    out.name = std::string(out.transport->name());
    const std::string endpoint = spec == "inproc" ? "inproc://" : spec + "://127.0.0.1:0";
    KVPLANE_ASSIGN_OR_RETURN(out.listener, out.transport->Listen(endpoint));
  }
  if (connections > 1) out.name += fmt::format(" x{}", connections);
  for (uint32_t i = 0; i < connections; ++i) {
    auto lane = spec.empty() ? PlainLane::Connect() : TransportLane::Connect(*out.transport, *out.listener);
    if (!lane.ok()) return lane.status();
    out.lanes.push_back(*std::move(lane));
  }
  return out;
}

base::Result<std::vector<Contender>> MakeContenders(const BenchTransportArgs& args) {
  transport::TransportSecurity token;
  token.tokens = {kToken};
  transport::TransportSecurity tls = token;
  tls.tls = true;
  struct Choice {
    const char* spec;
    const transport::TransportSecurity& security;
    uint32_t connections;
  };
  const transport::TransportSecurity none;
  std::vector<Choice> choices = {
      {"", none, 1}, {"tcp", none, 1}, {"tcp", token, 1}, {"tcp", tls, 1}, {"inproc", none, 1}};
  if (transport::UcxIsBuilt()) choices.push_back({"ucx", none, 1});
  if (args.connections > 1) {
    for (const Choice& more : {Choice{"", none, 0}, Choice{"tcp", none, 0}, Choice{"tcp", tls, 0}}) {
      choices.push_back({more.spec, more.security, args.connections});
    }
  }
  std::vector<Contender> out;
  for (const Choice& choice : choices) {
    KVPLANE_ASSIGN_OR_RETURN(Contender one, MakeContender(choice.spec, choice.security, choice.connections));
    out.push_back(std::move(one));
  }
  return out;
}

base::Status MeasureRound(std::vector<Contender>& contenders, size_t frame_bytes, uint64_t bytes, bool keep) {
  double plain_s = 0;
  for (Contender& one : contenders) {
    const Work work{frame_bytes, std::max<size_t>(1, bytes / frame_bytes / one.lanes.size())};
    base::Result<Timing> timing = Move(one.lanes, work);
    if (!timing.ok()) return timing.status().Annotate(one.name);
    const double moved = static_cast<double>(work.frames * work.frame_bytes * one.lanes.size());
    const double seconds_per_byte = timing->wall_s / moved;
    if (plain_s == 0) plain_s = seconds_per_byte;  // the first row: one plain connection
    if (!keep) continue;
    one.bits_per_s.push_back(8 / seconds_per_byte);
    one.over_plain.push_back(plain_s / seconds_per_byte);
    one.send_ns.push_back(timing->send_cpu_s / moved * 1e9);
    one.receive_ns.push_back(timing->receive_cpu_s / moved * 1e9);
  }
  return base::Status::Ok();
}

void Report(std::vector<Contender>& contenders, size_t frame_bytes, BenchReport& report) {
  fmt::print(stderr, "frames of {}\n", base::FormatBytes(static_cast<double>(frame_bytes)));
  for (Contender& one : contenders) {
    fmt::print(stderr,
               "  {:<20} {:>8.2f} GB/s ({:.2f} - {:.2f})  {:>5.2f} of plain  {:>5.2f} + {:.2f} ns/byte\n",
               one.name, Median(one.bits_per_s) / 8e9,
               *std::min_element(one.bits_per_s.begin(), one.bits_per_s.end()) / 8e9,
               *std::max_element(one.bits_per_s.begin(), one.bits_per_s.end()) / 8e9, Median(one.over_plain),
               Median(one.send_ns), Median(one.receive_ns));
    const BenchCase where = {{"mode", one.name}, {"frame_bytes", static_cast<int64_t>(frame_bytes)}};
    report.AddSample(where, "goodput_bits_per_s", "bit/s", one.bits_per_s);
    report.AddSample(where, "goodput_over_plain_copy", "1", one.over_plain);
    report.AddSample(where, "send_cpu_ns_per_byte", "ns", one.send_ns);
    report.AddSample(where, "receive_cpu_ns_per_byte", "ns", one.receive_ns);
    for (auto* figures : {&one.bits_per_s, &one.over_plain, &one.send_ns, &one.receive_ns}) figures->clear();
  }
}

base::Status Bench(const BenchTransportArgs& args) {
  if (args.repeats == 0) return base::InvalidArgument("--repeats must be at least 1");
  if (args.connections == 0 || args.connections > kMaxConnections) {
    return base::InvalidArgument("--connections {} is not in 1..{}", args.connections, kMaxConnections);
  }
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t bytes, base::ParseBytes(args.bytes));
  std::vector<size_t> frames;
  for (const std::string& text : args.frames) {
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t frame, base::ParseBytes(text));
    if (frame == 0 || frame > kMaxFrameBytes) return base::InvalidArgument("--frames: '{}'", text);
    frames.push_back(frame);
  }
  KVPLANE_ASSIGN_OR_RETURN(std::vector<Contender> contenders, MakeContenders(args));
  BenchReport report("transport", args.command);
  fmt::print(stderr,
             "{}\n{} moved per figure over loopback, n = {}; median (min - max), CPU sending + receiving\n",
             Describe(ThisMachine()), base::FormatBytes(static_cast<double>(bytes)), args.repeats);
  for (const size_t frame : frames) {
    for (uint32_t round = 0; round <= args.repeats; ++round) {  // the first one warms up and shakes hands
      KVPLANE_RETURN_IF_ERROR(MeasureRound(contenders, frame, bytes, round > 0));
    }
    Report(contenders, frame, report);
  }
  return args.json.empty() ? base::Status::Ok() : report.WriteJson(args.json);
}

}  // namespace

int CmdBenchTransport(const BenchTransportArgs& args) {
  const base::Status status = Bench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench transport: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
