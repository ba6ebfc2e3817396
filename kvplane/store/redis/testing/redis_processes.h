// Real redis-server processes on loopback for tests: one server, or a cluster.
//
// Every process has its folder under a temporary one, dies with the test (also when that is killed) and is
// ended by its process id. Ports are the system's choice.
//
// Thread safety: none.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/store/redis/redis_slots.h"
#include "kvplane/store/redis/resp.h"
#include "kvplane/transport/stream.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::store {

// False where redis-server is not installed: tests are skipped then.
bool RedisServerInstalled();

// A server that speaks TLS only, on its one port; a cluster's nodes do so among themselves as well.
struct RedisTls {
  std::string ca_file;
  std::string certificate_file;
  std::string key_file;
  std::string host = "127.0.0.1";         // what its certificate is for
  bool client_certificates = false;       // demanded of whoever connects
  transport::TlsCredentials credentials;  // of this end
};

class RedisProcess {
 public:
  // Returns when the server answers. `arguments`: further ones of the command line.
  static base::Result<std::unique_ptr<RedisProcess>> Start(const std::vector<std::string>& arguments,
                                                           bool cluster, const RedisTls* tls = nullptr);
  ~RedisProcess();
  RedisProcess(const RedisProcess&) = delete;
  RedisProcess& operator=(const RedisProcess&) = delete;

  const RedisAddress& address() const { return address_; }
  uint16_t cluster_port() const { return cluster_port_; }
  const std::string& id() const { return id_; }  // of the cluster node

  // One command over a connection of its own; errors of the server are values.
  base::Result<RespValue> Command(const std::vector<std::string>& arguments) const;
  // The same as text: of a bulk string, a status or an error.
  std::string Text(const std::vector<std::string>& arguments) const;

  void Kill();             // SIGKILL
  void Freeze();           // SIGSTOP: connections stay, nothing answers
  void Unfreeze();         // SIGCONT
  base::Status Restart();  // on the same port and folder

 private:
  RedisProcess() = default;
  base::Status Launch();

  RedisAddress address_;
  uint16_t cluster_port_ = 0;
  std::string id_;
  std::string folder_;
  std::vector<std::string> command_line_;
  std::shared_ptr<transport::Transport> transport_;
  pid_t pid_ = -1;
};

struct RedisClusterShape {
  size_t masters = 3;
  size_t replicas = 0;  // of the first masters, one each
  uint32_t node_timeout_ms = 1000;
  const RedisTls* tls = nullptr;
};

class RedisCluster {
 public:
  // Returns when every node says that the cluster is up and every replica is in step.
  static base::Result<std::unique_ptr<RedisCluster>> Start(const RedisClusterShape& shape);

  RedisProcess& node(size_t index) { return *nodes_[index]; }  // masters first
  size_t size() const { return nodes_.size(); }
  std::vector<RedisAddress> masters() const;
  // The node that serves `slot` according to `asked`.
  base::Result<RedisAddress> OwnerOf(uint16_t slot, size_t asked) const;
  void FlushAll();
  // Polls until node `asked` says that every slot is served; false after `limit`.
  bool WaitUntilUp(size_t asked, base::Duration limit) const;

 private:
  RedisCluster() = default;
  base::Status Join(const RedisClusterShape& shape);

  std::vector<std::unique_ptr<RedisProcess>> nodes_;
  size_t masters_ = 0;
};

}  // namespace kvplane::store
