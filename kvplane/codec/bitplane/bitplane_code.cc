#include "kvplane/codec/bitplane/bitplane_code.h"

#include <algorithm>

#include "kvplane/codec/pack/packed_rows.h"
#include "kvplane/kernel/bitplane/bitplane.h"

namespace kvplane::codec {
namespace {

using kernel::PlaneBytes;

// Planes of a head.
constexpr uint32_t kMaxPlanes = 8;

// How a plane is held: its bytes as they are; a mark for each and the bytes that are not the filler; or that
// with the marks held in the same way, their zero bytes left out. Wire values.
enum class Form : uint8_t { kRaw = 0, kMarked = 1, kTwiceMarked = 2 };
constexpr uint8_t kFillerOnes = 4;  // flag: the filler is 0xff, not 0

struct PlaneSizes {
  explicit PlaneSizes(size_t symbols)
      : plane(PlaneBytes(symbols)), marks(PlaneBytes(plane)), outer_marks(PlaneBytes(marks)) {}

  size_t plane;
  size_t marks;        // of the bytes of a plane
  size_t outer_marks;  // of the bytes of the marks
};

// The planes of a head, its marks, and the bytes that are kept.
struct Buffers {
  Buffers(const PlaneSizes& sizes, Workspace& workspace) {
    planes = workspace.Scratch((kMaxPlanes + 1) * sizes.plane + sizes.marks, Workspace::Use::kStreams).data();
    kept = planes + kMaxPlanes * sizes.plane;
    marks = kept + sizes.plane;
  }
  std::byte* planes;
  std::byte* kept;
  std::byte* marks;
};

// Writes one plane to the front of `out` and returns its length; 0: no room.
size_t EncodePlane(const PlaneSizes& sizes, const std::byte* plane, const Buffers& buffers,
                   std::span<std::byte> out) {
  const kernel::BitplaneKernels& kernels = kernel::Bitplanes();
  const size_t not_zero = kernels.count_kept(plane, sizes.plane, std::byte{0});
  const size_t not_ones = kernels.count_kept(plane, sizes.plane, std::byte{0xff});
  const bool ones = not_ones < not_zero;
  const size_t kept = ones ? not_ones : not_zero;
  const uint8_t flag = ones ? kFillerOnes : 0;
  std::byte* const body = out.data() + 1;
  if (sizes.outer_marks + kept < sizes.plane) {
    kernels.gather(plane, sizes.plane, static_cast<std::byte>(ones ? 0xff : 0), buffers.marks, buffers.kept);
    const size_t outer = sizes.outer_marks + kernels.count_kept(buffers.marks, sizes.marks, std::byte{0});
    const size_t marks = std::min(outer, sizes.marks);
    if (marks + kept < sizes.plane) {
      if (out.size() < 1 + marks + kept) return 0;
      if (outer < sizes.marks) {
        out[0] = static_cast<std::byte>(static_cast<uint8_t>(Form::kTwiceMarked) | flag);
        kernels.gather(buffers.marks, sizes.marks, std::byte{0}, body, body + sizes.outer_marks);
      } else {
        out[0] = static_cast<std::byte>(static_cast<uint8_t>(Form::kMarked) | flag);
        std::copy_n(buffers.marks, sizes.marks, body);
      }
      std::copy_n(buffers.kept, kept, body + marks);
      return 1 + marks + kept;
    }
  }
  if (out.size() < 1 + sizes.plane) return 0;
  out[0] = static_cast<std::byte>(Form::kRaw);
  std::copy_n(plane, sizes.plane, body);
  return 1 + sizes.plane;
}

// Reads one plane off the front of `in`.
base::Status DecodePlane(const PlaneSizes& sizes, const Buffers& buffers, std::span<const std::byte>& in,
                         std::byte* plane) {
  const kernel::BitplaneKernels& kernels = kernel::Bitplanes();
  if (in.empty()) return base::Corrupt("bitplane_rle: a plane is missing");
  const auto head = static_cast<uint8_t>(in[0]);
  in = in.subspan(1);
  if (head == static_cast<uint8_t>(Form::kRaw)) {
    if (in.size() < sizes.plane) return base::Corrupt("bitplane_rle: {} bytes of a plane", in.size());
    std::copy_n(in.data(), sizes.plane, plane);
    in = in.subspan(sizes.plane);
    return base::Status::Ok();
  }
  const auto form = static_cast<Form>(head & ~kFillerOnes);
  const auto filler = static_cast<std::byte>((head & kFillerOnes) != 0 ? 0xff : 0);
  const bool twice = form == Form::kTwiceMarked;
  if (!twice && form != Form::kMarked) return base::Corrupt("bitplane_rle: a plane of the form {}", head);
  const size_t first = twice ? sizes.outer_marks : sizes.marks;
  if (in.size() < first) return base::Corrupt("bitplane_rle: {} bytes of marks", in.size());
  const std::byte* marks = in.data();
  in = in.subspan(first);
  if (twice) {
    const size_t taken =
        kernels.scatter(marks, sizes.marks, std::byte{0}, in.data(), in.size(), buffers.marks);
    if (taken == kernel::kNoBytesLeft) return base::Corrupt("bitplane_rle: {} bytes of marks", in.size());
    marks = buffers.marks;
    in = in.subspan(taken);
  }
  const size_t taken = kernels.scatter(marks, sizes.plane, filler, in.data(), in.size(), plane);
  if (taken == kernel::kNoBytesLeft) return base::Corrupt("bitplane_rle: {} bytes of a plane", in.size());
  in = in.subspan(taken);
  return base::Status::Ok();
}

}  // namespace

size_t BitplaneCode::LeastBytes(const TileShape& shape) const {
  const PlaneSizes sizes(size_t{shape.tokens} * shape.head_dim);
  return shape.heads * (1 + std::min(sizes.plane, sizes.outer_marks));
}

size_t BitplaneCode::Encode(const SymbolPlane& plane, const uint8_t* symbols, Workspace& workspace,
                            std::span<std::byte> out) const {
  const PlaneSizes sizes(plane.head_values());
  const Buffers buffers(sizes, workspace);
  size_t at = 0;
  for (const uint32_t alphabet : plane.alphabets) {
    const uint32_t bits = PackedWidth(alphabet);
    kernel::Bitplanes().split(symbols, plane.head_values(), alphabet, bits, buffers.planes);
    for (uint32_t j = 0; j < bits; ++j) {
      const size_t bytes = EncodePlane(sizes, buffers.planes + j * sizes.plane, buffers, out.subspan(at));
      if (bytes == 0) return 0;
      at += bytes;
    }
    symbols += plane.head_values();
  }
  return at;
}

base::Status BitplaneCode::Decode(const SymbolPlane& plane, std::span<const std::byte> in,
                                  Workspace& workspace, uint8_t* symbols) const {
  const PlaneSizes sizes(plane.head_values());
  const Buffers buffers(sizes, workspace);
  for (const uint32_t alphabet : plane.alphabets) {
    const uint32_t bits = PackedWidth(alphabet);
    for (uint32_t j = 0; j < bits; ++j) {
      KVPLANE_RETURN_IF_ERROR(DecodePlane(sizes, buffers, in, buffers.planes + j * sizes.plane));
    }
    const uint8_t largest =
        kernel::Bitplanes().join(buffers.planes, plane.head_values(), alphabet, bits, symbols);
    if (largest >= alphabet) {
      return base::Corrupt("bitplane_rle: symbol {} of an alphabet of {}", largest, alphabet);
    }
    symbols += plane.head_values();
  }
  if (!in.empty()) return base::Corrupt("bitplane_rle: {} bytes too many", in.size());
  return base::Status::Ok();
}

}  // namespace kvplane::codec
