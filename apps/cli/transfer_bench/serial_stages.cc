#include "apps/cli/transfer_bench/serial_stages.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <thread>
#include <vector>

#include "apps/cli/page_memory.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transport/file_descriptor.h"

namespace kvplane::cli {
namespace {

using transport::FileDescriptor;

double SecondsSince(base::TimePoint start) { return base::ToSeconds(base::Clock::System().Now() - start); }

struct CodedPiece {
  transfer::TileGrid::Tile tile;
  size_t offset = 0;
  size_t bytes = 0;
};

// Two connected TCP sockets.
base::Result<std::pair<FileDescriptor, FileDescriptor>> ConnectedSockets() {
  FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!listener.valid() || ::bind(listener.get(), generic, size) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), generic, &size) != 0) {
    return base::Unavailable("listen on loopback: {}", transport::ErrnoText(errno));
  }
  FileDescriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!client.valid() || ::connect(client.get(), generic, size) != 0) {
    return base::Unavailable("connect on loopback: {}", transport::ErrnoText(errno));
  }
  FileDescriptor server(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!server.valid()) return base::Unavailable("accept on loopback: {}", transport::ErrnoText(errno));
  return std::pair(std::move(client), std::move(server));
}

}  // namespace

base::Result<SerialTimes> CodeSerially(const codec::SideCodecs& codecs, const PagedKv& from, PagedKv& to,
                                       uint32_t tokens) {
  transfer::KvDescriptor descriptor;
  descriptor.geometry = from.geometry();
  descriptor.tokens = tokens;
  const bool together = codecs[0]->strategy().needs_all_heads() || codecs[1]->strategy().needs_all_heads();
  const uint32_t heads = from.geometry().kv_heads;
  KVPLANE_ASSIGN_OR_RETURN(
      const transfer::TileGrid grid,
      transfer::TileGrid::Create(descriptor, together ? heads : std::min(heads, transfer::kTileGroupHeads)));
  codec::Workspace workspace;
  std::vector<std::byte> coded;
  std::vector<CodedPiece> pieces;
  coded.resize(grid.raw_bytes() + grid.raw_bytes() / 64 + grid.tiles() * 256);
  SerialTimes times;
  base::TimePoint start = base::Clock::System().Now();
  for (uint32_t layer = 0; layer < grid.geometry.layers; ++layer) {
    for (uint32_t index = 0; index < grid.tiles_per_layer(); ++index) {
      const transfer::TileGrid::Tile tile = grid.At(layer, index);
      const codec::TileCodec& codec = *codecs[static_cast<size_t>(tile.side)];
      const std::span<std::byte> room = std::span(coded).subspan(times.bytes);
      const tensor::TileView view = grid.ViewOf(from.layers()[layer], tile);
      KVPLANE_ASSIGN_OR_RETURN(const size_t bytes,
                               codec.Encode(tensor::AsConst(view), workspace, room, grid.ContextOf(tile)));
      pieces.push_back({tile, times.bytes, bytes});
      times.bytes += bytes;
    }
  }
  times.encode_s = SecondsSince(start);
  start = base::Clock::System().Now();
  for (const CodedPiece& piece : pieces) {
    const codec::TileCodec& codec = *codecs[static_cast<size_t>(piece.tile.side)];
    const tensor::TileView view = grid.ViewOf(to.layers()[piece.tile.layer], piece.tile);
    KVPLANE_RETURN_IF_ERROR(codec.Decode(std::span<const std::byte>(coded).subspan(piece.offset, piece.bytes),
                                         workspace, view, grid.ContextOf(piece.tile)));
  }
  times.decode_s = SecondsSince(start);
  return times;
}

base::Result<double> PlainSocketCopy(uint64_t bytes, size_t piece_bytes) {
  KVPLANE_ASSIGN_OR_RETURN(auto sockets, ConnectedSockets());
  PageMemory source(bytes / 2);
  PageMemory target(bytes / 2);
  std::fill(source.values().begin(), source.values().end(), uint16_t{0x3f80});
  std::fill(target.values().begin(), target.values().end(), uint16_t{1});  // pages are there, as in a cache
  const auto from = std::as_bytes(source.values());
  const auto to = std::as_writable_bytes(target.values());
  bool read_all = true;
  const base::TimePoint start = base::Clock::System().Now();
  std::thread reader([&, socket = sockets.second.get()] {
    for (size_t at = 0; at < to.size();) {
      const ssize_t got = ::recv(socket, to.data() + at, std::min(piece_bytes, to.size() - at), 0);
      if (got <= 0) {
        read_all = false;
        return;
      }
      at += static_cast<size_t>(got);
    }
  });
  bool wrote_all = true;
  for (size_t at = 0; at < from.size() && wrote_all;) {
    const ssize_t sent =
        ::send(sockets.first.get(), from.data() + at, std::min(piece_bytes, from.size() - at), MSG_NOSIGNAL);
    wrote_all = sent > 0;
    if (wrote_all) at += static_cast<size_t>(sent);
  }
  if (!wrote_all) ::shutdown(sockets.first.get(), SHUT_RDWR);
  reader.join();
  if (!read_all || !wrote_all) return base::Unavailable("plain socket copy broke off");
  return SecondsSince(start);
}

}  // namespace kvplane::cli
