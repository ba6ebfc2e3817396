// kvplane: one binary, one verb each. The verbs and their flags are declared in apps/cli/verbs/; here the
// command line is parsed and what it asks for is run.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "apps/cli/exit_code.h"
#include "apps/cli/verbs/verb.h"
#include "kvplane/base/edit_distance.h"
#include "kvplane/kernel/isa.h"
#include "kvplane/store/disk_store.h"

namespace kvplane::cli {
namespace {

constexpr const char* kVersion = "kvplane 0.1.0";

// Names that could stand where `word` does: flags of the chosen verb, or verbs.
std::vector<std::string> Candidates(const CLI::App& app, bool flag) {
  std::vector<std::string> names;
  const CLI::App* scope = &app;
  while (!scope->get_subcommands().empty()) scope = scope->get_subcommands().front();
  if (flag) {
    for (const CLI::Option* option : scope->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  } else {
    for (const CLI::App* verb : scope->get_subcommands([](const CLI::App*) { return true; })) {
      names.push_back(verb->get_name());
    }
  }
  return names;
}

int ReportUsageError(const CLI::App& app, const CLI::ParseError& error) {
  fmt::print(stderr, "kvplane: {}\n", error.what());
  for (const std::string& word : app.remaining(true)) {
    std::string best;
    size_t best_distance = 4;  // further away is not a typing error
    constexpr size_t kLongestName = 64;
    const std::string bare = word.substr(0, std::min(word.find('='), kLongestName));
    for (const std::string& name : Candidates(app, word.starts_with("-"))) {
      if (const size_t distance = base::EditDistance(bare, name); distance < best_distance) {
        best = name;
        best_distance = distance;
      }
    }
    if (!best.empty()) fmt::print(stderr, "kvplane: '{}' is unknown; did you mean '{}'?\n", bare, best);
  }
  fmt::print(stderr, "kvplane: see 'kvplane --help' or 'kvplane VERB --help'\n");
  return kExitUsage;
}

// The command line as a shell would take it, for reports that say how they were made.
std::string CommandLine(int argc, char** argv) {
  std::string line = "kvplane";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain = !word.empty() && word.find_first_of(" \t'\"|;$`\\()") == std::string::npos;
    if (plain) {
      line += " " + word;
      continue;
    }
    line += " '";
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += "'";
  }
  return line;
}

int Run(int argc, char** argv) {
  CLI::App app{"KV-cache plane of a disaggregated LLM service", "kvplane"};
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(0, 1);
  Action action;
  AddServe(app, action);
  AddRoute(app, action);
  AddStore(app, action);
  AddGenerate(app, action);
  AddCodecVerbs(app, action);
  const std::string command = CommandLine(argc, argv);
  AddBench(app, command, action);
  AddDemo(app, command, action);
  AddProfile(app, action);
  AddDoctor(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return ReportUsageError(app, error);
  }
  if (!action) {
    fmt::print(stderr, "kvplane: which verb?\n\n{}", app.help());
    return kExitUsage;
  }
  if (const base::Status forced = kernel::ForcedIsaStatus(); !forced.ok()) {
    fmt::print(stderr, "kvplane: {}\n", forced.ToString());
    return kExitUsage;
  }
  const int code = action();
  if (store::DiskStore::left_behind() > 0) {
    // Its threads are in the kernel, waiting for a disk: what they use must not be destroyed under them.
    std::fflush(nullptr);
    std::_Exit(code);
  }
  return code;
}

}  // namespace
}  // namespace kvplane::cli

int main(int argc, char** argv) {
  try {
    return kvplane::cli::Run(argc, argv);
  } catch (const std::exception& error) {  // out of memory and our own bugs; libraries return Status
    fmt::print(stderr, "kvplane: unexpected: {}\n", error.what());
    return kvplane::cli::kExitFailed;
  }
}
