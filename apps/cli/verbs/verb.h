// What the verbs of the command line are declared with: the pieces that several of them share.
//
// Flags are declared in apps/cli/verbs/ and nowhere else, by subject; each verb validates the rest and does
// the work. These are, with main.cc, the only translation units that see CLI11. Arguments live in statics of
// the functions that declare them: the parser writes there, the verb reads from there.
#pragma once

#include <functional>
#include <string>

#include "apps/cli/node_runtime.h"
#include "kvplane/transport/transport_security.h"

namespace CLI {
class App;
}

namespace kvplane::cli {

// What the parser chose to run; empty until a verb's callback fires.
using Action = std::function<int()>;

CLI::App* Verb(CLI::App& app, const std::string& name, const std::string& what);

// Model, compute and cache of a process that runs an engine.
void AddRuntimeFlags(CLI::App* verb, RuntimeArgs& args);
// TLS of connections between nodes. The token file belongs to it, but is declared with the API's flags.
void AddKvSecurityFlags(CLI::App* verb, transport::SecurityFiles& files);
void AddLogFlags(CLI::App* verb, std::string& level, bool& json);

// The verbs, by subject. `command` is the command line, for reports that say how they were made.
void AddServe(CLI::App& app, Action& action);
void AddRoute(CLI::App& app, Action& action);
void AddGenerate(CLI::App& app, Action& action);
void AddDoctor(CLI::App& app, Action& action);
void AddStore(CLI::App& app, Action& action);
void AddCodecVerbs(CLI::App& app, Action& action);  // encode, decode, inspect, verify
void AddProfile(CLI::App& app, Action& action);
void AddBench(CLI::App& app, const std::string& command, Action& action);
void AddDemo(CLI::App& app, const std::string& command, Action& action);

}  // namespace kvplane::cli
