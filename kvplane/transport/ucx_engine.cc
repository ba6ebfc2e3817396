#include "kvplane/transport/ucx_engine.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/transport/file_descriptor.h"

namespace kvplane::transport {
namespace {

constexpr uint32_t kMagic = 0x3158554b;  // "KUX1", the version at its end
constexpr unsigned kMessageId = 0;

// Steps of UCX between two looks at the commands.
constexpr int kProgressBurst = 32;
constexpr size_t kMaxLogBytes = 512;
// Sleep where UCX could not arm its event descriptor: nothing would end a longer one.
constexpr base::Duration kUnarmedPause = std::chrono::milliseconds(10);

enum class Kind : uint32_t { kData = 1, kGrant = 2, kEnd = 3, kEndSeen = 4 };

struct Header {
  uint32_t magic = kMagic;
  Kind kind = Kind::kData;
  uint64_t value = 0;  // kData: offset of the first byte; kGrant: limit; kEnd: bytes of the stream
};
static_assert(sizeof(Header) == 16);

// Lives until UCX has sent it: UCX 1.13 copies neither header nor bytes.
struct Message {
  Header header;
  std::vector<std::byte> bytes;
  std::shared_ptr<UcxChannel> channel;
};

struct Command {
  enum class What { kConnect, kListen, kStopListening, kSend, kEnd, kAbort, kStop };
  What what = What::kStop;
  std::shared_ptr<UcxChannel> channel{};
  std::shared_ptr<UcxListening> listening{};
  SocketAddress address{};
  std::unique_ptr<Message> message{};
};

base::Status Failure(std::string_view what, ucs_status_t status) {
  return base::Unavailable("{}: UCX: {}", what, ucs_status_string(status));
}

// UCX's own messages: its failures come back as a Status too, so that lines below errors are for debugging.
ucs_log_func_rc_t LogFromUcx(const char* /*file*/, unsigned /*line*/, const char* /*function*/,
                             ucs_log_level_t level, const ucs_log_component_config_t* /*component*/,
                             const char* message, va_list arguments) {
  char text[kMaxLogBytes];
  if (std::vsnprintf(text, sizeof(text), message, arguments) < 0) return UCS_LOG_FUNC_RC_STOP;
  base::Log(level <= UCS_LOG_LEVEL_ERROR ? base::LogLevel::kWarn : base::LogLevel::kDebug, "ucx: {}", text);
  return UCS_LOG_FUNC_RC_STOP;
}

void TakeOverLog() {
  static std::once_flag once;
  std::call_once(once, [] { ucs_log_push_handler(LogFromUcx); });
}

class Engine final : public UcxEngine {
 public:
  Engine() = default;
  ~Engine() override;
  base::Status Start(const UcxOptions& options);

  void Connect(std::shared_ptr<UcxChannel> channel, const SocketAddress& address) override {
    Post({.what = Command::What::kConnect, .channel = std::move(channel), .address = address});
  }
  base::Status Listen(const std::shared_ptr<UcxListening>& listening) override;
  void StopListening(const std::shared_ptr<UcxListening>& listening) override;
  void Send(std::shared_ptr<UcxChannel> channel, uint64_t offset, std::vector<std::byte> bytes) override {
    PostMessage(std::move(channel), {.kind = Kind::kData, .value = offset}, std::move(bytes));
  }
  void Grant(std::shared_ptr<UcxChannel> channel, uint64_t limit) override {
    PostMessage(std::move(channel), {.kind = Kind::kGrant, .value = limit}, {});
  }
  void End(std::shared_ptr<UcxChannel> channel) override {
    Post({.what = Command::What::kEnd, .channel = std::move(channel)});
  }
  void Abort(std::shared_ptr<UcxChannel> channel) override {
    Post({.what = Command::What::kAbort, .channel = std::move(channel)});
  }

 private:
  // A stream that UCX knows.
  struct Link {
    std::shared_ptr<UcxChannel> channel;
    std::shared_ptr<UcxListening> connecting{};  // whose Accept() gets it when its peer has spoken
    base::TimePoint expires = base::kNoDeadline;
    uint64_t sent = 0;
    bool ending = false;
  };
  struct Arrival {
    ucp_conn_request_h request;
    std::shared_ptr<UcxListening> listening;
  };

  void Post(Command command);
  void PostMessage(std::shared_ptr<UcxChannel> channel, Header header, std::vector<std::byte> bytes);

  // From here on: the driving thread only.
  void Run();
  void RunCommands();
  void Execute(Command& command);
  void SleepUntilEvent();
  void SetExpiry(Link& link, base::TimePoint when);
  void Expire();
  void StartListening(const std::shared_ptr<UcxListening>& shared);
  void RemoveListener(const std::shared_ptr<UcxListening>& listening);
  void AcceptArrivals();
  bool CreateEndpoint(ucp_ep_params_t& params, Link link);
  void Transmit(ucp_ep_h endpoint, std::unique_ptr<Message> message);
  void TransmitControl(ucp_ep_h endpoint, Kind kind, uint64_t value);
  void BeginEnd(ucp_ep_h endpoint, Link& link);
  void Receive(ucp_ep_h endpoint, const Header& header, std::span<const std::byte> bytes);
  // Now the link is gone and UCX lets go of the endpoint in its own time.
  void Close(ucp_ep_h endpoint);
  // Inside of UCX's callbacks an endpoint is only noted down; CloseDoomed() closes it.
  void Doom(ucp_ep_h endpoint, const base::Status& status);
  void CloseDoomed();

  static ucs_status_t OnMessage(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                const ucp_am_recv_param_t* param);
  static void OnSent(void* request, ucs_status_t status, void* message);
  static void OnClosed(void* request, ucs_status_t status, void* self);
  static void OnError(void* self, ucp_ep_h endpoint, ucs_status_t status);
  static void OnArrival(ucp_conn_request_h request, void* self_and_listening);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int worker_event_ = -1;  // UCX's own
  FileDescriptor command_event_;
  std::thread thread_;

  base::Mutex mutex_;
  std::vector<Command> commands_ KVPLANE_GUARDED_BY(mutex_);

  // The driving thread's own.
  struct ListenerSlot {
    Engine* engine;
    std::shared_ptr<UcxListening> listening;
  };
  std::map<ucp_ep_h, Link> links_;
  std::map<UcxListening*, std::unique_ptr<ListenerSlot>> listeners_;
  std::vector<Arrival> arrivals_;
  std::vector<ucp_ep_h> doomed_;
  base::TimePoint next_expiry_ = base::kNoDeadline;  // of links_, or earlier
  size_t closing_ = 0;
  bool stopping_ = false;
  base::TimePoint stop_by_ = base::kNoDeadline;
};

base::Status Engine::Start(const UcxOptions& options) {
  TakeOverLog();
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return Failure("configuration", status);
  if (!options.tls.empty()) status = ucp_config_modify(config, "TLS", options.tls.c_str());
  if (status == UCS_OK) {
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    status = ucp_init(&params, config, &context_);
  }
  ucp_config_release(config);
  if (status != UCS_OK) return Failure("initialisation", status);

  ucp_worker_params_t worker{};
  worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  status = ucp_worker_create(context_, &worker, &worker_);
  if (status != UCS_OK) return Failure("worker", status);
  status = ucp_worker_get_efd(worker_, &worker_event_);
  if (status != UCS_OK) return Failure("event descriptor", status);

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = OnMessage;
  handler.arg = this;
  status = ucp_worker_set_am_recv_handler(worker_, &handler);
  if (status != UCS_OK) return Failure("message handler", status);

  command_event_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!command_event_.valid()) return base::Unavailable("eventfd: {}", ErrnoText(errno));
  thread_ = std::thread([this] { Run(); });
  return base::Status::Ok();
}

Engine::~Engine() {
  if (thread_.joinable()) {
    Post({.what = Command::What::kStop});
    thread_.join();
  }
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

void Engine::Post(Command command) {
  bool first = false;
  {
    base::MutexLock lock(mutex_);
    first = commands_.empty();
    commands_.push_back(std::move(command));
  }
  if (!first) return;
  const uint64_t one = 1;
  // It fails only when the counter is full, and then the thread is awake.
  [[maybe_unused]] const ssize_t written = ::write(command_event_.get(), &one, sizeof(one));
}

void Engine::PostMessage(std::shared_ptr<UcxChannel> channel, Header header, std::vector<std::byte> bytes) {
  auto message = std::make_unique<Message>();
  message->header = header;
  message->bytes = std::move(bytes);
  message->channel = channel;
  Post({.what = Command::What::kSend, .channel = std::move(channel), .message = std::move(message)});
}

base::Status Engine::Listen(const std::shared_ptr<UcxListening>& listening) {
  Post({.what = Command::What::kListen, .listening = listening});
  base::MutexLock lock(listening->mutex);
  while (!listening->settled) listening->changed.Wait(listening->mutex);
  return listening->status;
}

void Engine::StopListening(const std::shared_ptr<UcxListening>& listening) {
  Post({.what = Command::What::kStopListening, .listening = listening});
  base::MutexLock lock(listening->mutex);
  while (!listening->removed) listening->changed.Wait(listening->mutex);
}

void Engine::Run() {
  while (true) {
    RunCommands();
    bool progressed = false;
    for (int i = 0; i < kProgressBurst && ucp_worker_progress(worker_) != 0; ++i) progressed = true;
    AcceptArrivals();
    CloseDoomed();
    if (stopping_) {
      const bool late = base::Clock::System().Now() >= stop_by_;
      while (late && !links_.empty()) Close(links_.begin()->first);
      if (links_.empty() && (closing_ == 0 || late)) return;
    }
    if (!progressed) SleepUntilEvent();
    Expire();
  }
}

void Engine::RunCommands() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(command_event_.get(), &count, sizeof(count));
  std::vector<Command> commands;
  {
    base::MutexLock lock(mutex_);
    commands.swap(commands_);
  }
  for (Command& command : commands) Execute(command);
}

void Engine::Execute(Command& command) {
  using What = Command::What;
  const auto endpoint =
      command.channel == nullptr ? nullptr : static_cast<ucp_ep_h>(command.channel->endpoint);
  const auto link = endpoint == nullptr ? links_.end() : links_.find(endpoint);
  switch (command.what) {
    case What::kConnect: {
      ucp_ep_params_t params{};
      params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
      params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
      params.sockaddr = {command.address.get(), command.address.size};
      CreateEndpoint(params, {.channel = command.channel});
      break;
    }
    case What::kListen:
      StartListening(command.listening);
      break;
    case What::kStopListening:
      RemoveListener(command.listening);
      break;
    case What::kSend:
      if (link == links_.end() || link->second.ending) break;
      link->second.sent += command.message->bytes.size();
      Transmit(endpoint, std::move(command.message));
      break;
    case What::kEnd:
      if (link != links_.end()) BeginEnd(endpoint, link->second);
      break;
    case What::kAbort:
      if (link != links_.end()) Close(endpoint);
      break;
    case What::kStop:
      stopping_ = true;
      stop_by_ = base::Clock::System().Now() + kUcxLinger;
      for (auto& [each, its_link] : links_) BeginEnd(each, its_link);
      break;
  }
}

void Engine::SleepUntilEvent() {
  const ucs_status_t armed = ucp_worker_arm(worker_);
  if (armed == UCS_ERR_BUSY) return;  // something came meanwhile
  base::TimePoint until = std::min(stop_by_, next_expiry_);
  if (armed != UCS_OK) until = std::min(until, base::Clock::System().Now() + kUnarmedPause);
  pollfd events[] = {{worker_event_, POLLIN, 0}, {command_event_.get(), POLLIN, 0}};
  int timeout_ms = -1;
  if (until != base::kNoDeadline) {
    const base::Duration left = base::TimeLeft(base::Clock::System(), until);
    timeout_ms = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
  }
  ::poll(events, std::size(events), timeout_ms);
}

void Engine::SetExpiry(Link& link, base::TimePoint when) {
  link.expires = when;
  next_expiry_ = std::min(next_expiry_, when);
}

void Engine::Expire() {
  const base::TimePoint now = base::Clock::System().Now();
  if (now < next_expiry_) return;
  next_expiry_ = base::kNoDeadline;
  for (auto& [endpoint, link] : links_) {
    if (link.expires <= now) {
      link.channel->Fail(base::Unavailable("{} does not answer", link.channel->peer()));
      doomed_.push_back(endpoint);
    } else {
      next_expiry_ = std::min(next_expiry_, link.expires);
    }
  }
  CloseDoomed();
}

void Engine::StartListening(const std::shared_ptr<UcxListening>& shared) {
  UcxListening& listening = *shared;
  auto slot = std::make_unique<ListenerSlot>(this, shared);
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr = {listening.address.get(), listening.address.size};
  params.conn_handler = {OnArrival, slot.get()};
  ucp_listener_h listener = nullptr;
  ucs_status_t status = ucp_listener_create(worker_, &params, &listener);
  if (status == UCS_OK) {
    ucp_listener_attr_t bound{};
    bound.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
    status = ucp_listener_query(listener, &bound);
    if (status == UCS_OK) {
      listening.address.storage = bound.sockaddr;
      listening.handle = listener;
      listeners_[&listening] = std::move(slot);
    } else {
      ucp_listener_destroy(listener);
    }
  }
  base::MutexLock lock(listening.mutex);
  listening.status = status == UCS_OK ? base::Status::Ok() : Failure(listening.address.ToString(), status);
  listening.settled = true;
  listening.changed.NotifyAll();
}

void Engine::RemoveListener(const std::shared_ptr<UcxListening>& listening) {
  if (listening->handle != nullptr) {
    std::erase_if(arrivals_, [&](const Arrival& arrival) {
      if (arrival.listening != listening) return false;
      ucp_listener_reject(static_cast<ucp_listener_h>(listening->handle), arrival.request);
      return true;
    });
    ucp_listener_destroy(static_cast<ucp_listener_h>(listening->handle));
    listening->handle = nullptr;
  }
  listeners_.erase(listening.get());
  for (auto& [endpoint, link] : links_) {
    if (link.connecting == listening) doomed_.push_back(endpoint);
  }
  CloseDoomed();
  base::MutexLock lock(listening->mutex);
  listening->removed = true;
  listening->changed.NotifyAll();
}

void Engine::AcceptArrivals() {
  for (Arrival& arrival : std::exchange(arrivals_, {})) {
    UcxListening& listening = *arrival.listening;
    size_t waiting = listening.connecting;
    bool closed = stopping_;
    {
      base::MutexLock lock(listening.mutex);
      waiting += listening.waiting.size();
      closed |= listening.closed;
    }
    if (closed || waiting >= kUcxMaxBacklog) {
      ucp_listener_reject(static_cast<ucp_listener_h>(listening.handle), arrival.request);
      continue;
    }
    SocketAddress peer;
    ucp_conn_request_attr_t attributes{};
    attributes.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR;
    if (ucp_conn_request_query(arrival.request, &attributes) == UCS_OK) {
      peer.storage = attributes.client_address;
    }
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
    params.conn_request = arrival.request;
    CreateEndpoint(params, {.channel = std::make_shared<UcxChannel>(peer.ToString()),
                            .connecting = arrival.listening,
                            .expires = base::Clock::System().Now() + kHandshakeTimeout});
  }
}

bool Engine::CreateEndpoint(ucp_ep_params_t& params, Link link) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {OnError, this};
  ucp_ep_h endpoint = nullptr;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint);
  if (status != UCS_OK) {
    link.channel->Fail(Failure(link.channel->peer(), status));
    return false;
  }
  link.channel->endpoint = endpoint;
  if (link.connecting != nullptr) ++link.connecting->connecting;
  SetExpiry(link, link.expires);
  links_[endpoint] = std::move(link);
  TransmitControl(endpoint, Kind::kGrant, kUcxWindowBytes);
  return true;
}

void Engine::Transmit(ucp_ep_h endpoint, std::unique_ptr<Message> message) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  // Eager, because only then messages arrive in the order in which they are sent.
  param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
  param.cb.send = OnSent;
  param.user_data = message.get();
  void* const request = ucp_am_send_nbx(endpoint, kMessageId, &message->header, sizeof(Header),
                                        message->bytes.data(), message->bytes.size(), &param);
  if (UCS_PTR_IS_ERR(request)) {
    Doom(endpoint, Failure(message->channel->peer(), UCS_PTR_STATUS(request)));
  } else if (request != nullptr) {
    message.release();  // OnSent() takes it back
  }
}

void Engine::TransmitControl(ucp_ep_h endpoint, Kind kind, uint64_t value) {
  const auto link = links_.find(endpoint);
  if (link == links_.end()) return;
  auto message = std::make_unique<Message>();
  message->header = {.kind = kind, .value = value};
  message->channel = link->second.channel;
  Transmit(endpoint, std::move(message));
}

void Engine::BeginEnd(ucp_ep_h endpoint, Link& link) {
  if (link.ending) return;
  link.ending = true;
  SetExpiry(link, base::Clock::System().Now() + kUcxLinger);
  TransmitControl(endpoint, Kind::kEnd, link.sent);
}

void Engine::Receive(ucp_ep_h endpoint, const Header& header, std::span<const std::byte> bytes) {
  const auto found = links_.find(endpoint);
  if (found == links_.end()) return;
  Link& link = found->second;
  base::Status status;
  switch (header.kind) {
    case Kind::kData:
      status = link.channel->Arrived(header.value, bytes);
      break;
    case Kind::kGrant:
      status = link.channel->Granted(header.value);
      if (const auto listening = std::exchange(link.connecting, nullptr); listening != nullptr) {
        --listening->connecting;
        link.expires = link.ending ? link.expires : base::kNoDeadline;
        base::MutexLock lock(listening->mutex);
        if (listening->closed) {
          doomed_.push_back(endpoint);
        } else {
          listening->waiting.push_back(link.channel);
          listening->changed.NotifyAll();
        }
      }
      break;
    case Kind::kEnd:
      status = link.channel->PeerEnded(header.value);
      if (status.ok()) TransmitControl(endpoint, Kind::kEndSeen, 0);
      break;
    case Kind::kEndSeen:
      if (link.ending) doomed_.push_back(endpoint);
      break;
    default:
      status = base::Unavailable("{} sent a message of unknown kind", link.channel->peer());
  }
  if (!status.ok()) Doom(endpoint, status);
}

void Engine::Close(ucp_ep_h endpoint) {
  const auto link = links_.find(endpoint);
  if (link == links_.end()) return;
  if (link->second.connecting != nullptr) --link->second.connecting->connecting;
  link->second.channel->Fail(
      base::Unavailable("the connection to {} is closed", link->second.channel->peer()));
  link->second.channel->endpoint = nullptr;
  links_.erase(link);
  std::erase(doomed_, endpoint);  // UCX may soon give another endpoint this address
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = OnClosed;
  param.user_data = this;
  if (void* const request = ucp_ep_close_nbx(endpoint, &param); UCS_PTR_IS_PTR(request)) ++closing_;
}

void Engine::Doom(ucp_ep_h endpoint, const base::Status& status) {
  const auto link = links_.find(endpoint);
  if (link == links_.end()) return;
  link->second.channel->Fail(status);
  doomed_.push_back(endpoint);
}

void Engine::CloseDoomed() {
  while (!doomed_.empty()) {
    const ucp_ep_h endpoint = doomed_.back();
    doomed_.pop_back();
    Close(endpoint);
  }
}

ucs_status_t Engine::OnMessage(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                               const ucp_am_recv_param_t* param) {
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return UCS_OK;
  auto& engine = *static_cast<Engine*>(self);
  Header read;
  if (header_bytes == sizeof(read)) std::memcpy(&read, header, sizeof(read));
  if (header_bytes != sizeof(read) || read.magic != kMagic || bytes > kUcxChunkBytes ||
      (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    engine.Doom(param->reply_ep, base::Unavailable("the peer does not speak this protocol"));
    return UCS_OK;
  }
  engine.Receive(param->reply_ep, read, {static_cast<const std::byte*>(data), bytes});
  return UCS_OK;
}

// A failure comes to OnError() too.
void Engine::OnSent(void* request, ucs_status_t /*status*/, void* message) {
  delete static_cast<Message*>(message);
  ucp_request_free(request);
}

void Engine::OnClosed(void* request, ucs_status_t /*status*/, void* self) {
  --static_cast<Engine*>(self)->closing_;
  ucp_request_free(request);
}

void Engine::OnError(void* self, ucp_ep_h endpoint, ucs_status_t status) {
  auto& engine = *static_cast<Engine*>(self);
  const auto link = engine.links_.find(endpoint);
  if (link != engine.links_.end()) engine.Doom(endpoint, Failure(link->second.channel->peer(), status));
}

void Engine::OnArrival(ucp_conn_request_h request, void* self_and_listening) {
  const auto& slot = *static_cast<ListenerSlot*>(self_and_listening);
  slot.engine->arrivals_.push_back({request, slot.listening});
}

}  // namespace

base::Result<std::unique_ptr<UcxEngine>> UcxEngine::Create(const UcxOptions& options) {
  auto engine = std::make_unique<Engine>();
  KVPLANE_RETURN_IF_ERROR(engine->Start(options));
  return std::unique_ptr<UcxEngine>(std::move(engine));
}

}  // namespace kvplane::transport
