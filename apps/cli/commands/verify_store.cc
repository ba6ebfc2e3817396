#include "apps/cli/commands/verify_store.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kvplane/base/units.h"
#include "kvplane/store/disk_store.h"

namespace kvplane::cli {
namespace {

// More than a folder can hold: verifying evicts nothing, whatever budget the folder is served with.
constexpr uint64_t kNoBudget = 1ull << 60;

nlohmann::ordered_json ToJson(const store::ScrubReport& report, const store::DiskStore& disk, bool repair) {
  // Without repair the scrub leaves damaged entries in place, and does not count them there.
  const uint64_t lost = disk.stats().corrupt - (repair ? report.damaged : 0);
  return {{"folder", disk.name()},
          {"entries", report.entries},
          {"bytes", report.bytes},
          {"damaged", report.damaged},
          {"unreadable", report.unreadable},
          {"lost_at_opening", lost},
          {"erased", repair ? report.damaged : 0},
          {"damage", report.named}};
}

}  // namespace

base::Status VerifyStore(const VerifyStoreArgs& args) {
  store::DiskStoreOptions options;
  options.folder = args.folder;
  options.capacity_bytes = kNoBudget;
  options.create = false;
  options.read_only = !args.repair;
  KVPLANE_ASSIGN_OR_RETURN(const auto disk, store::DiskStore::Open(options));
  KVPLANE_ASSIGN_OR_RETURN(const store::ScrubReport report, disk->Scrub({.repair = args.repair}));
  if (args.repair) KVPLANE_RETURN_IF_ERROR(disk->Flush(base::kNoDeadline));
  const nlohmann::ordered_json described = ToJson(report, *disk, args.repair);
  if (args.json) {
    fmt::print("{}\n", described.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    if (!disk->opening_damage().empty()) fmt::print(stderr, "{}: {}\n", args.folder, disk->opening_damage());
    for (const std::string& line : report.named) fmt::print(stderr, "{}: {}\n", args.folder, line);
    fmt::print(stderr, "{}: {} objects, {}, {} damaged{}, {} unreadable, {} lost\n", args.folder,
               report.entries, base::FormatBytes(static_cast<double>(report.bytes)), report.damaged,
               args.repair && report.damaged != 0 ? " and erased" : "", report.unreadable,
               described["lost_at_opening"].get<uint64_t>());
  }
  if (report.unreadable != 0)
    return base::Unavailable("{}: {} objects cannot be read", args.folder, report.unreadable);
  const uint64_t lost = described["lost_at_opening"].get<uint64_t>();
  if (report.damaged + lost != 0 && !args.repair) {
    return base::Corrupt("{}: {} of {} objects are damaged, {} more are lost; --repair erases them",
                         args.folder, report.damaged, report.entries, lost);
  }
  return base::Status::Ok();
}

}  // namespace kvplane::cli
