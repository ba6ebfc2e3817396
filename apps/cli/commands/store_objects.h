// kvplane store put, get, erase, stats: a store in an operator's hands. They act on any store that
// create_store.h can name, a running server (tcp://HOST:PORT) or a folder nobody serves at the moment.
//
//     put     verifies an object file and stores it; prints {"key":"...","bytes":N} to standard output
//     get     reads an object, verifies it and writes it to a file; a damaged one is quarantined (exit 3)
//     erase   one object, or with no key everything a tenant owns; prints {"erased":N}
//     stats   prints what the store and its tiers count, as JSON
#pragma once

#include <string>
#include <vector>

#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {

struct StoreClientArgs {
  std::vector<std::string> store;  // one text, or several for a stack of tiers
  transport::SecurityFiles security;
  std::string tenant;  // name; empty: the default tenant
  std::string key;     // 64 hexadecimal digits, or
  std::string name;    // any text: the key is made from it
  double timeout_s = 30;
};

struct StorePutArgs {
  StoreClientArgs client;
  std::string input;
  bool durable = false;
  double ttl_s = 0;
  uint32_t quality = 0;  // of a lossy object, in thousandths
};

struct StoreGetArgs {
  StoreClientArgs client;
  std::string output;
};

int CmdStorePut(const StorePutArgs& args);
int CmdStoreGet(const StoreGetArgs& args);
int CmdStoreErase(const StoreClientArgs& args);
int CmdStoreStats(const StoreClientArgs& args);

}  // namespace kvplane::cli
