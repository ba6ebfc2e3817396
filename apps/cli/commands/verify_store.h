// kvplane verify FOLDER: reads every object of a disk store (docs/formats/disk_folder.md), checks the
// checksums of the medium and of the objects, and, when asked to, erases what is damaged.
#pragma once

#include <string>

#include "kvplane/base/status.h"

namespace kvplane::cli {

struct VerifyStoreArgs {
  std::string folder;
  bool repair = false;  // without it nothing in the database changes
  bool json = false;
};

// kCorrupt when something is damaged or lost and was not repaired, also when the database cannot be opened at
// all (which --repair leaves alone); kFailedPrecondition while a process serves it.
base::Status VerifyStore(const VerifyStoreArgs& args);

}  // namespace kvplane::cli
