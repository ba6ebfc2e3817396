// Verbs of a store: store, and put, get, erase, stats under it.
#include <CLI/CLI.hpp>

#include "apps/cli/commands/cmd_store.h"
#include "apps/cli/commands/store_objects.h"
#include "apps/cli/verbs/verb.h"

namespace kvplane::cli {
namespace {

void AddStoreClientFlags(CLI::App* verb, StoreClientArgs& args, bool keyed) {
  verb->add_option(
          "--store", args.store,
          "The store: tcp://HOST:PORT, dir:PATH, redis[s]://HOST:PORT; repeated after mem: a stack of tiers")
      ->required()
      ->allow_extra_args(false);
  if (keyed) {
    verb->add_option("--tenant", args.tenant, "Name of the tenant; default: the default tenant");
    verb->add_option("--key", args.key, "The object's key, 64 hexadecimal digits");
    verb->add_option("--name", args.name, "Text the object's key is made from, instead of --key");
  }
  verb->add_option("--auth-token-file", args.security.auth_token_file,
                   "File with the token that both ends prove to each other");
  AddKvSecurityFlags(verb, args.security);
  verb->add_option("--timeout-s", args.timeout_s, "Longest it may take");
}

void AddStoreObjects(CLI::App* store, Action& action) {
  static StorePutArgs put_args;
  CLI::App* put = Verb(*store, "put", "Store an object file");
  put->add_option("input", put_args.input, "Object file, as kvplane encode writes it")->required();
  AddStoreClientFlags(put, put_args.client, /*keyed=*/true);
  put->add_flag("--durable", put_args.durable, "Return when it would survive a crash of the store");
  put->add_option("--ttl-s", put_args.ttl_s, "Time to live; 0: the store's default");
  put->add_option("--quality", put_args.quality, "Quality of a lossy object, thousandths of lossless")
      ->check(CLI::Range(0, 999));
  put->callback([&action] { action = [] { return CmdStorePut(put_args); }; });

  static StoreGetArgs get_args;
  CLI::App* get = Verb(*store, "get", "Read an object, verify it and write it to a file");
  AddStoreClientFlags(get, get_args.client, /*keyed=*/true);
  get->add_option("-o,--output", get_args.output, "Object file")->required();
  get->callback([&action] { action = [] { return CmdStoreGet(get_args); }; });

  static StoreClientArgs erase_args;
  CLI::App* erase = Verb(*store, "erase", "Erase an object, or everything of a tenant");
  AddStoreClientFlags(erase, erase_args, /*keyed=*/true);
  erase->callback([&action] { action = [] { return CmdStoreErase(erase_args); }; });

  static StoreClientArgs stats_args;
  CLI::App* stats = Verb(*store, "stats", "What a store and its tiers count, as JSON");
  AddStoreClientFlags(stats, stats_args, /*keyed=*/false);
  stats->callback([&action] { action = [] { return CmdStoreStats(stats_args); }; });
}

}  // namespace

void AddStore(CLI::App& app, Action& action) {
  static StoreServerArgs args;
  CLI::App* verb =
      Verb(app, "store", "Keep KV objects for other nodes; put, get, erase, stats act on a store");
  verb->add_option("--listen", args.listen,
                   "Where to serve; others than loopback need a token or --insecure");
  verb->add_option("--dram", args.dram, "Memory for objects, e.g. 8GiB");
  verb->add_option("--policy", args.policy, "What leaves memory first")
      ->check(CLI::IsMember({"s3fifo", "lru"}));
  verb->add_option("--disk", args.disk, "Folder for objects; they outlive the process");
  verb->add_option("--disk-bytes", args.disk_bytes, "Bytes of the folder at most, e.g. 200GB");
  verb->add_option("--ttl-s", args.ttl_s, "Time to live of objects that come without one; 0: none");
  verb->add_option("--quota", args.quota, "Bytes of memory each tenant may take; default: no limit");
  verb->add_option("--tier", args.tiers,
                   "A further tier, slower than the disk: tcp://... or redis[s]://...; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--max-connections", args.max_connections, "Connections at a time")
      ->check(CLI::Range(1, 65'536));
  verb->add_option("--link-rate", args.link_rate, "Shape what this store sends, e.g. 200Mbit/s");
  verb->add_option("--metrics", args.metrics, "HOST:PORT for GET /metrics (Prometheus); default: none");
  verb->add_option("--auth-token-file", args.security.auth_token_file,
                   "File with the token that clients must prove");
  AddKvSecurityFlags(verb, args.security);
  verb->add_flag("--insecure", args.insecure, "Allow a public address without a token");
  verb->add_option("--drain-s", args.drain_s, "Time to answer and to flush after SIGTERM");
  AddLogFlags(verb, args.log_level, args.log_json);
  verb->require_subcommand(0, 1);
  AddStoreObjects(verb, action);
  verb->callback([&action, verb] {
    if (verb->get_subcommands().empty()) action = [] { return CmdStore(args); };
  });
}

}  // namespace kvplane::cli
