#include <algorithm>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/ecsq/ternary.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/kernel/rans/rans_tables.h"

namespace kvplane::kernel {
namespace {

constexpr bool FrequenciesAreWhole() {
  for (const auto& table : kTernaryFrequency) {
    for (const auto& f : table) {
      if (f[0] == 0 || f[1] == 0 || f[2] == 0 || f[0] + f[1] + f[2] != internal::kRansTotal) return false;
    }
  }
  return true;
}
static_assert(FrequenciesAreWhole());

uint32_t Live(const TernaryShape& shape, uint32_t g) {
  return std::min(kRansLanes, shape.channels - g * kRansLanes);
}

struct Model {
  uint32_t frequency[3];
  uint32_t start[3];
};
Model ModelOf(uint32_t table, int32_t parent) {
  const uint8_t* f = kTernaryFrequency[table][std::min(parent < 0 ? -parent : parent, 2)];
  return {{f[0], f[1], f[2]}, {0, f[0], uint32_t{f[0]} + f[1]}};
}

std::byte* EncodeOne(const TernaryShape& shape, const uint8_t* tables, const int16_t* parents,
                     const int16_t* levels, std::byte* end) {
  const uint32_t groups = shape.groups();
  uint32_t x[kRansLanes];
  std::fill_n(x, kRansLanes, internal::kRansLowerBound);
  for (size_t step = size_t{shape.tokens} * groups; step-- > 0;) {
    const auto g = static_cast<uint32_t>(step % groups);
    for (uint32_t lane = Live(shape, g); lane-- > 0;) {
      const int32_t parent = parents[step * kRansLanes + lane];
      const int32_t rest = levels[step * kRansLanes + lane] - 3 * parent;
      const auto symbol = static_cast<uint32_t>(1 + (parent < 0 ? -rest : rest));
      const Model model = ModelOf(tables[g], parent);
      const uint32_t f = model.frequency[symbol];
      if (x[lane] >= f * 512) {
        *--end = static_cast<std::byte>(x[lane] & 0xff);
        x[lane] >>= 8;
      }
      x[lane] = x[lane] / f * internal::kRansTotal + x[lane] % f + model.start[symbol];
    }
  }
  end -= kRansStateBytes;
  for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
    base::StoreLe(end + lane * sizeof(uint16_t), static_cast<uint16_t>(x[lane]));
  }
  return end;
}

bool DecodeOne(const TernaryShape& shape, const uint8_t* tables, std::span<const std::byte> in,
               int16_t* levels) {
  if (in.size() < kRansStateBytes) return false;
  uint32_t x[kRansLanes];
  for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
    x[lane] = base::LoadLe<uint16_t>(in.data() + lane * sizeof(uint16_t));
    if (x[lane] < internal::kRansLowerBound) return false;
  }
  const std::byte* at = in.data() + kRansStateBytes;
  const std::byte* const end = in.data() + in.size();
  const uint32_t groups = shape.groups();
  for (size_t step = 0; step < size_t{shape.tokens} * groups; ++step) {
    const auto g = static_cast<uint32_t>(step % groups);
    for (uint32_t lane = 0; lane < Live(shape, g); ++lane) {
      int16_t& level = levels[step * kRansLanes + lane];
      const Model model = ModelOf(tables[g], level);
      const uint32_t slot = x[lane] % internal::kRansTotal;
      const uint32_t symbol = (slot >= model.start[1] ? 1u : 0u) + (slot >= model.start[2] ? 1u : 0u);
      x[lane] = model.frequency[symbol] * (x[lane] / internal::kRansTotal) + slot - model.start[symbol];
      if (x[lane] < internal::kRansLowerBound) {
        if (at == end) return false;
        x[lane] = x[lane] << 8 | static_cast<uint32_t>(*at++);
      }
      const int32_t rest = static_cast<int32_t>(symbol) - 1;
      level = static_cast<int16_t>(3 * level + (level < 0 ? -rest : rest));
    }
  }
  return at == end &&
         std::all_of(x, x + kRansLanes, [](uint32_t s) { return s == internal::kRansLowerBound; });
}

void Encode(const TernaryShape& shape, uint32_t streams, const uint8_t* const* tables,
            const int16_t* const* parents, const int16_t* const* levels, std::byte* const* ends,
            size_t* sizes) {
  for (uint32_t v = 0; v < streams; ++v) {
    sizes[v] = static_cast<size_t>(ends[v] - EncodeOne(shape, tables[v], parents[v], levels[v], ends[v]));
  }
}

uint32_t Decode(const TernaryShape& shape, uint32_t streams, const uint8_t* const* tables,
                const std::span<const std::byte>* in, int16_t* const* levels) {
  uint32_t corrupt = 0;
  for (uint32_t v = 0; v < streams; ++v)
    corrupt |= DecodeOne(shape, tables[v], in[v], levels[v]) ? 0 : 1u << v;
  return corrupt;
}

}  // namespace

namespace internal {
const TernaryKernels kTernaryScalar = {Encode, Decode};
}  // namespace internal

size_t TernaryMaxStreamBytes(const TernaryShape& shape) {
  return kRansStateBytes + size_t{shape.tokens} * shape.channels;
}

const TernaryKernels& Ternary(Isa isa) {
  return isa == Isa::kAvx512 ? internal::kTernaryAvx512 : internal::kTernaryScalar;
}

const TernaryKernels& Ternary() { return Ternary(ActiveIsa()); }

}  // namespace kvplane::kernel
