#include "kvplane/kernel/rans/rans.h"

#include <algorithm>

#include "kvplane/kernel/rans/rans_driver.h"

namespace kvplane::kernel {

size_t RansBypassBytes(const RansShape& shape) {
  size_t words = 0;
  for (uint32_t g = 0; g < shape.groups(); ++g) words += shape.rungs[g].bypass();
  return words * sizeof(uint32_t) * shape.tokens;
}

size_t RansMaxStreamBytes(const RansShape& shape) {
  return kRansStateBytes + size_t{shape.tokens} * shape.channels + RansBypassBytes(shape);
}

size_t RansScratchBytes(uint32_t elements) {
  return (kRansMaxStreams + 1) * internal::PaddedRow(elements) * sizeof(uint16_t);
}

bool InvertRansOrder(std::span<const uint32_t> order, std::span<uint32_t> inverse) {
  std::ranges::fill(inverse, kRansNoLane);
  for (uint32_t i = 0; i < order.size(); ++i) {
    if (order[i] >= inverse.size() || inverse[order[i]] != kRansNoLane) return false;
    inverse[order[i]] = i;
  }
  return true;
}

bool BuildRansPicks(std::span<const uint32_t> sources, RansPick* picks) {
  constexpr uint32_t kWindow = 128;
  bool windowed = true;
  for (size_t first = 0; first < sources.size(); first += kRansLanes) {
    const auto part = sources.subspan(first, std::min<size_t>(kRansLanes, sources.size() - first));
    uint32_t least = kRansNoLane;
    uint32_t most = 0;
    RansPick pick;
    for (size_t i = 0; i < part.size(); ++i) {
      if (part[i] == kRansNoLane) continue;
      least = std::min(least, part[i]);
      most = std::max(most, part[i]);
      pick.live |= 1u << i;
    }
    if (pick.live == 0) least = most = static_cast<uint32_t>(first) / kWindow * kWindow;
    // Its own window where that holds all sources, else an aligned start: loads then match the stores that
    // filled the row.
    const uint32_t own = static_cast<uint32_t>(first) / kWindow * kWindow;
    const uint32_t aligned = least / kRansLanes * kRansLanes;
    const bool at_home = pick.live == 0 || (least >= own && most - own < kWindow);
    windowed &= at_home;
    pick.base = at_home ? own : most - aligned < kWindow ? aligned : least;
    pick.local = most - pick.base < kWindow;
    if (pick.local) {
      for (size_t i = 0; i < part.size(); ++i) {
        if (part[i] == kRansNoLane) continue;
        pick.index[i] = static_cast<uint16_t>(part[i] - pick.base);
        if (pick.index[i] >= kWindow / 2) pick.upper |= 1u << i;
      }
    }
    picks[first / kRansLanes] = pick;
  }
  return windowed;
}

const RansKernels& Rans(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kRansAvx512;
    case Isa::kAvx2:
      return internal::kRansAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kRansScalar;
}

const RansKernels& Rans() { return Rans(ActiveIsa()); }

const RansByteKernels* RansBytes(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return &internal::kRansBytesAvx512;
    case Isa::kAvx2:
      return &internal::kRansBytesAvx2;
    case Isa::kScalar:
      break;
  }
  return nullptr;
}

const RansByteKernels* RansBytes() { return RansBytes(ActiveIsa()); }

}  // namespace kvplane::kernel
