// PrefixServices: everything of an engine that speaks to its store. Absent when the engine has none.
//
// Ownership: owned by the engine, outlives its loop. Thread safety: as its members.
#pragma once

#include <utility>

#include "kvplane/engine/prefix_loader.h"
#include "kvplane/engine/prefix_pusher.h"

namespace kvplane::engine {

struct PrefixServices {
  PrefixContext context;
  PrefixLoader loader;
  PrefixPusher pusher;

  PrefixServices(store::Store& store, store::KeySpace keys, const RunShape& shape, codec::ProfileSet profiles,
                 PrefixOptions options, RunCoding coding)
      : context{.store = store,
                .keys = std::move(keys),
                .shape = shape,
                .profiles = std::move(profiles),
                .options = std::move(options)},
        loader(context),
        pusher(context, std::move(coding)) {}
};

}  // namespace kvplane::engine
