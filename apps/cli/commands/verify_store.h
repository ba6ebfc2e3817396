// kvplane verify FOLDER: reads every object of a disk store (docs/formats/disk_folder.md), checks the
// checksums of the medium and of the objects, and, when asked to, erases what is damaged.
#pragma once

#include <string>

#include "kvplane/base/status.h"

namespace kvplane::cli {

struct VerifyStoreArgs {
  std::string folder;
  bool repair = false;  // without it nothing in the folder changes, except that a lost file's entries go
  bool json = false;
};

// kCorrupt when something was damaged and is still there; kFailedPrecondition while a process serves it.
base::Status VerifyStore(const VerifyStoreArgs& args);

}  // namespace kvplane::cli
