// Objects that a number names: their keys and every byte of them follow from it, so that a test can tell
// what it must get back, also in another process than the one that put it.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvplane/store/entry.h"

namespace kvplane::store {

StoreKey NumberedKey(uint64_t number, uint64_t tenant = 7);

// A real object (docs/formats/object.md) of `layers` layers with raw tiles; about 8 KiB per layer.
std::vector<std::byte> NumberedObject(uint64_t number, uint32_t layers);

// How many layers the object of this number has where sizes are to vary: 1 to 64.
uint32_t NumberedLayers(uint64_t number);

}  // namespace kvplane::store
