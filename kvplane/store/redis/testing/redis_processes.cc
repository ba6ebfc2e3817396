#include "kvplane/store/redis/testing/redis_processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>  // mkdtemp
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "kvplane/store/redis/redis_options.h"

namespace kvplane::store {
namespace {

constexpr base::Duration kStartLimit = std::chrono::seconds(30);
constexpr base::Duration kPoll = std::chrono::milliseconds(20);

base::TimePoint Now() { return base::Clock::System().Now(); }

// Polls until `done` says so; false after `limit`.
template <typename Done>
bool WaitUntil(base::Duration limit, Done done) {
  const base::TimePoint end = Now() + limit;
  while (!done()) {
    if (Now() >= end) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

// Ports that were free a moment ago, all different: they are taken at the same time.
std::vector<uint16_t> FreePorts(size_t count) {
  std::vector<int> sockets;
  std::vector<uint16_t> ports;
  for (size_t i = 0; i < count; ++i) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
      ports.push_back(ntohs(address.sin_port));
    }
    sockets.push_back(fd);
  }
  for (const int fd : sockets) ::close(fd);
  return ports;
}

}  // namespace

bool RedisServerInstalled() {
  for (const char* folder : {"/usr/bin", "/usr/local/bin"}) {
    if (::access(fmt::format("{}/redis-server", folder).c_str(), X_OK) == 0) return true;
  }
  return false;
}

base::Result<std::unique_ptr<RedisProcess>> RedisProcess::Start(const std::vector<std::string>& arguments,
                                                                bool cluster, const RedisTls* tls) {
  std::unique_ptr<RedisProcess> out(new RedisProcess());
  RedisOptions access;
  access.tls = tls != nullptr;
  if (tls != nullptr) access.credentials = tls->credentials;
  KVPLANE_ASSIGN_OR_RETURN(out->transport_, CreateRedisTransport(access));
  std::string folder = (std::filesystem::temp_directory_path() / "kvplane-redis-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return base::Internal("no temporary folder");
  out->folder_ = folder;
  const std::vector<uint16_t> ports = FreePorts(2);
  if (ports.size() != 2) return base::Internal("no free ports");
  out->address_ = {tls != nullptr ? tls->host : "127.0.0.1", ports[0]};
  out->command_line_ = {"redis-server",
                        tls != nullptr ? "--tls-port" : "--port",
                        fmt::format("{}", ports[0]),
                        "--bind",
                        "127.0.0.1",
                        "--dir",
                        folder,
                        "--logfile",
                        "redis.log",
                        "--save",
                        "",
                        "--appendonly",
                        "no",
                        "--daemonize",
                        "no"};
  if (cluster) {
    out->cluster_port_ = ports[1];
    for (const std::string& argument :
         {std::string("--cluster-enabled"), std::string("yes"), std::string("--cluster-config-file"),
          std::string("nodes.conf"), std::string("--cluster-port"), fmt::format("{}", ports[1])}) {
      out->command_line_.push_back(argument);
    }
  }
  if (tls != nullptr) {
    const char* const both = tls->client_certificates ? "yes" : "no";
    for (const std::string& argument : std::initializer_list<std::string>{
             "--port", "0", "--tls-ca-cert-file", tls->ca_file, "--tls-cert-file", tls->certificate_file,
             "--tls-key-file", tls->key_file, "--tls-auth-clients", both, "--tls-cluster", "yes",
             "--tls-replication", "yes"}) {
      out->command_line_.push_back(argument);
    }
  }
  out->command_line_.insert(out->command_line_.end(), arguments.begin(), arguments.end());
  KVPLANE_RETURN_IF_ERROR(out->Launch());
  if (cluster) out->id_ = out->Text({"CLUSTER", "MYID"});
  return out;
}

base::Status RedisProcess::Launch() {
  std::vector<char*> arguments;
  for (std::string& argument : command_line_) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ < 0) return base::Internal("fork failed");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, STDIN_FILENO);
    ::dup2(null, STDOUT_FILENO);
    ::dup2(null, STDERR_FILENO);
    ::execvp(arguments[0], arguments.data());
    std::abort();  // no such program; libraries do not exit
  }
  const bool up = WaitUntil(kStartLimit, [&] { return Command({"PING"}).ok(); });
  if (!up) return base::Unavailable("redis-server does not answer, see {}/redis.log", folder_);
  return base::Status::Ok();
}

RedisProcess::~RedisProcess() {
  Kill();
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

base::Result<RespValue> RedisProcess::Command(const std::vector<std::string>& arguments) const {
  const base::TimePoint deadline = Now() + std::chrono::seconds(5);
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<transport::Stream> stream,
                           transport_->Connect(fmt::format("tcp://{}", address_.ToString()), deadline));
  RespCommand command(arguments.size());
  for (const std::string& argument : arguments) command.Arg(argument);
  const RespCommand* const one = &command;
  KVPLANE_RETURN_IF_ERROR(WriteRespCommands(*stream, {&one, 1}, deadline));
  return RespReader(*stream).Next({.max_bulk_bytes = 64 << 20, .max_elements = 1 << 16}, deadline);
}

std::string RedisProcess::Text(const std::vector<std::string>& arguments) const {
  const base::Result<RespValue> reply = Command(arguments);
  return reply.ok() ? std::string(reply->view()) : reply.status().ToString();
}

void RedisProcess::Kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
}

void RedisProcess::Freeze() { ::kill(pid_, SIGSTOP); }
void RedisProcess::Unfreeze() { ::kill(pid_, SIGCONT); }
base::Status RedisProcess::Restart() {
  Kill();
  return Launch();
}

base::Result<std::unique_ptr<RedisCluster>> RedisCluster::Start(const RedisClusterShape& shape) {
  std::unique_ptr<RedisCluster> out(new RedisCluster());
  for (size_t i = 0; i < shape.masters + shape.replicas; ++i) {
    KVPLANE_ASSIGN_OR_RETURN(
        std::unique_ptr<RedisProcess> node,
        RedisProcess::Start({"--cluster-node-timeout", fmt::format("{}", shape.node_timeout_ms),
                             "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"},
                            true, shape.tls));
    out->nodes_.push_back(std::move(node));
  }
  out->masters_ = shape.masters;
  KVPLANE_RETURN_IF_ERROR(out->Join(shape));
  return out;
}

base::Status RedisCluster::Join(const RedisClusterShape& shape) {
  for (size_t i = 0; i < masters_; ++i) {
    const size_t first = kRedisSlots * i / masters_;
    const size_t end = kRedisSlots * (i + 1) / masters_;
    const std::string added =
        nodes_[i]->Text({"CLUSTER", "ADDSLOTSRANGE", fmt::format("{}", first), fmt::format("{}", end - 1)});
    if (added != "OK") return base::Internal("ADDSLOTSRANGE: {}", added);
    // Nodes with an epoch of their own need no vote among equals later.
    (void)nodes_[i]->Text({"CLUSTER", "SET-CONFIG-EPOCH", fmt::format("{}", i + 1)});
  }
  for (size_t i = 1; i < nodes_.size(); ++i) {
    const std::string met = nodes_[0]->Text({"CLUSTER", "MEET", nodes_[i]->address().host,
                                             fmt::format("{}", nodes_[i]->address().port),
                                             fmt::format("{}", nodes_[i]->cluster_port())});
    if (met != "OK") return base::Internal("MEET: {}", met);
  }
  const auto knows_all = [&](const RedisProcess& node) {
    const std::string info = node.Text({"CLUSTER", "INFO"});
    return info.find(fmt::format("cluster_known_nodes:{}\r", nodes_.size())) != std::string::npos;
  };
  const bool met = WaitUntil(kStartLimit, [&] {
    return std::all_of(nodes_.begin(), nodes_.end(), [&](const auto& node) { return knows_all(*node); });
  });
  if (!met) return base::Internal("the nodes do not find each other");
  for (size_t i = 0; i < shape.replicas; ++i) {
    RedisProcess& replica = *nodes_[masters_ + i];
    std::string set;
    // Refused until the replica has heard that the other node is a master.
    const bool replicates = WaitUntil(kStartLimit, [&] {
      set = replica.Text({"CLUSTER", "REPLICATE", nodes_[i]->id()});
      return set == "OK";
    });
    if (!replicates) return base::Internal("REPLICATE: {}", set);
    const bool in_step = WaitUntil(kStartLimit, [&] {
      return replica.Text({"INFO", "replication"}).find("master_link_status:up") != std::string::npos;
    });
    if (!in_step) return base::Internal("a replica does not get in step");
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!WaitUntilUp(i, kStartLimit)) return base::Internal("the cluster does not come up");
  }
  return base::Status::Ok();
}

bool RedisCluster::WaitUntilUp(size_t asked, base::Duration limit) const {
  return WaitUntil(limit, [&] {
    return nodes_[asked]->Text({"CLUSTER", "INFO"}).find("cluster_state:ok") != std::string::npos;
  });
}

std::vector<RedisAddress> RedisCluster::masters() const {
  std::vector<RedisAddress> out;
  for (size_t i = 0; i < masters_; ++i) out.push_back(nodes_[i]->address());
  return out;
}

base::Result<RedisAddress> RedisCluster::OwnerOf(uint16_t slot, size_t asked) const {
  KVPLANE_ASSIGN_OR_RETURN(const RespValue reply, nodes_[asked]->Command({"CLUSTER", "SLOTS"}));
  KVPLANE_ASSIGN_OR_RETURN(const SlotMap map, ParseClusterSlots(reply, nodes_[asked]->address()));
  if (map.Find(slot) == nullptr) return base::NotFound("slot {} has no owner", slot);
  return *map.Find(slot);
}

void RedisCluster::FlushAll() {
  for (size_t i = 0; i < masters_; ++i) (void)nodes_[i]->Text({"FLUSHALL"});
}

}  // namespace kvplane::store
