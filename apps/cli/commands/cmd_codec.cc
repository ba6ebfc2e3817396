#include "apps/cli/commands/cmd_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "apps/cli/commands/verify_store.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/npy_file.h"
#include "apps/cli/profile_file.h"
#include "apps/cli/quality_flag.h"
#include "kvplane/base/units.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/profile_match.h"

namespace kvplane::cli {
namespace {

int Report(const base::Status& status) {
  if (!status.ok()) fmt::print(stderr, "kvplane: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

double RatioOf(const codec::ObjectReader& reader) {
  return static_cast<double>(reader.info().raw_bytes()) / static_cast<double>(reader.object_bytes());
}

base::Status Encode(const EncodeArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const codec::Strategy strategy, codec::Strategy::Parse(args.strategy));
  KVPLANE_ASSIGN_OR_RETURN(const auto quality, ReadQuality(args.quality));
  std::shared_ptr<const codec::ModelProfile> profile;
  if (!args.profile.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(profile, ReadProfileFile(args.profile));
  }
  KVPLANE_ASSIGN_OR_RETURN(RawKv kv, ReadNpy(args.input));
  if (profile != nullptr && strategy.needs_profile()) {
    KVPLANE_RETURN_IF_ERROR(codec::CheckProfileMatches(*profile, kv.geometry, {}).Annotate(args.profile));
  }
  codec::ObjectInfo info;
  info.geometry = kv.geometry;
  info.tokens = kv.tokens;
  info.first_token = args.first_token;
  info.head_group = args.head_group;
  info.quality[0] = quality[0];
  info.quality[1] = quality[1];
  info.strategy = strategy;
  KVPLANE_ASSIGN_OR_RETURN(codec::ObjectWriter writer, codec::ObjectWriter::Create(info, profile));
  codec::Workspace workspace;
  for (uint32_t layer = 0; layer < kv.geometry.layers; ++layer) {
    uint16_t* page = kv.layer_page(layer);
    KVPLANE_RETURN_IF_ERROR(writer.AppendLayer({std::span(&page, 1), kv.page_format()}, workspace));
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::byte> object, writer.Finish());
  KVPLANE_RETURN_IF_ERROR(WriteFileBytes(args.output, object));
  fmt::print(stderr, "{}: {} -> {}, ratio {:.3f}, {}\n", args.output,
             base::FormatBytes(static_cast<double>(info.raw_bytes())),
             base::FormatBytes(static_cast<double>(object.size())),
             static_cast<double>(info.raw_bytes()) / static_cast<double>(object.size()), strategy.ToString());
  return base::Status::Ok();
}

struct OpenedObject {
  std::vector<std::byte> bytes;
  codec::ObjectReader reader;
};

base::Result<OpenedObject> OpenFile(const std::string& path, const codec::OpenOptions& options) {
  KVPLANE_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, ReadFileBytes(path));
  base::Result<codec::ObjectReader> reader = codec::ObjectReader::Open(bytes, options);
  if (!reader.ok()) return reader.status().Annotate(path);
  return OpenedObject{std::move(bytes), *std::move(reader)};
}

base::Result<RawKv> DecodeValues(const OpenedObject& object) {
  KVPLANE_RETURN_IF_ERROR(object.reader.VerifyChecksums(object.bytes));
  KVPLANE_RETURN_IF_ERROR(object.reader.CheckDecodable());
  // Sections are at least as long as their tiles can be: a claim of much KV needs a large object.
  RawKv kv = RawKv::Make(object.reader.info().geometry, object.reader.info().tokens);
  std::vector<uint16_t*> pages;
  for (uint32_t layer = 0; layer < kv.geometry.layers; ++layer) pages.push_back(kv.layer_page(layer));
  std::vector<tensor::LayerPages> layers;
  for (uint16_t*& page : pages) layers.push_back({std::span(&page, 1), kv.page_format()});
  codec::Workspace workspace;
  KVPLANE_RETURN_IF_ERROR(object.reader.DecodeAll(object.bytes, workspace, layers));
  return kv;
}

base::Status Decode(const DecodeArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const codec::ProfileSet profiles, ReadProfileFiles(args.profiles));
  KVPLANE_ASSIGN_OR_RETURN(const OpenedObject object,
                           OpenFile(args.input, {.accept_lossy = !args.strict, .profiles = &profiles}));
  const base::Result<RawKv> kv = DecodeValues(object);
  if (!kv.ok()) return kv.status().Annotate(args.input);
  const NpyElement element = args.float32 ? NpyElement::kFloat32 : NpyElement::kBf16Patterns;
  KVPLANE_RETURN_IF_ERROR(WriteNpy(args.output, *kv, element));
  fmt::print(stderr, "{}: [{}, 2, {}, {}, {}] {}\n", args.output, kv->geometry.layers, kv->tokens,
             kv->geometry.kv_heads, kv->geometry.head_dim, args.float32 ? "float32" : "bf16 patterns");
  return base::Status::Ok();
}

std::string Hex(std::span<const std::byte> bytes) {
  std::string hex;
  for (const std::byte b : bytes) hex += fmt::format("{:02x}", static_cast<unsigned>(b));
  return hex;
}

nlohmann::json Describe(const codec::ObjectReader& reader) {
  const codec::ObjectInfo& info = reader.info();
  nlohmann::json layer_bytes = nlohmann::json::array();
  for (uint32_t i = 0; i < info.geometry.layers; ++i) layer_bytes.push_back(reader.layer_range(i).bytes);
  const auto values = static_cast<double>(info.raw_bytes()) / 2;
  return {{"format", fmt::format("{}.{}", codec::kObjectMajor, reader.minor_version())},
          {"strategy", info.strategy.ToString()},
          {"strategy_id", info.strategy.id().ToHex()},
          {"lossy", info.strategy.lossy()},
          {"quality", {info.quality[0], info.quality[1]}},
          {"dtype", std::string(tensor::Name(info.geometry.dtype))},
          {"layers", info.geometry.layers},
          {"kv_heads", info.geometry.kv_heads},
          {"head_dim", info.geometry.head_dim},
          {"head_group", info.heads_per_tile()},
          {"first_token", info.first_token},
          {"tokens", info.tokens},
          {"tiles_per_layer", info.tiles_per_layer()},
          {"model_fingerprint", Hex(info.identity.model_fingerprint)},
          {"token_chain", Hex(info.identity.token_chain)},
          {"rope", Hex(info.identity.rope)},
          {"profile", Hex(info.identity.profile)},
          {"bytes_raw", info.raw_bytes()},
          {"bytes_object", reader.object_bytes()},
          {"bytes_prefix", reader.prefix_bytes()},
          {"bytes_of_layer", std::move(layer_bytes)},
          {"ratio", RatioOf(reader)},
          {"bits_per_value", 8 * static_cast<double>(reader.object_bytes()) / values}};
}

nlohmann::json DescribeProfile(const codec::ModelProfile& profile) {
  constexpr std::string_view kSpaces[] = {"rotated keys", "unrotated keys", "values"};
  constexpr std::string_view kBases[] = {"channels", "head", "layer", "head attention", "layer attention"};
  const codec::ModelProfileData& data = profile.data();
  nlohmann::json described = {{"profile", profile.id().ToHex()},
                              {"bytes", profile.bytes().size()},
                              {"layers", data.geometry.layers},
                              {"kv_heads", data.geometry.kv_heads},
                              {"head_dim", data.geometry.head_dim},
                              {"model_fingerprint", Hex(data.model_fingerprint)},
                              {"rotary_dim", data.rope ? 2 * data.rope->inverse_frequencies.size() : 0},
                              {"heads_ranked", !data.head_rank.empty()},
                              {"note", data.note}};
  // Of the first layer: profiles are made alike for all.
  for (size_t space = 0; space < codec::kKvSpaces; ++space) {
    const codec::SpaceData* of = profile.space(0, static_cast<codec::KvSpace>(space));
    if (of == nullptr) continue;
    nlohmann::json ranks = nlohmann::json::object();
    for (size_t basis = 0; basis < codec::kBases; ++basis) {
      if (of->bases[basis]) ranks[std::string(kBases[basis])] = of->bases[basis]->rank;
    }
    described[fmt::format("ranks of {}", kSpaces[space])] = ranks;
  }
  return described;
}

// Whether the file starts as a profile does (docs/formats/profile.md).
bool StartsAsProfile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  return file.read(magic, sizeof(magic)) && std::string_view(magic, sizeof(magic)) == "KVPF";
}

base::Result<nlohmann::json> DescribeFile(const std::string& path) {
  if (StartsAsProfile(path)) {
    KVPLANE_ASSIGN_OR_RETURN(const std::shared_ptr<const codec::ModelProfile> profile, ReadProfileFile(path));
    return DescribeProfile(*profile);
  }
  KVPLANE_ASSIGN_OR_RETURN(const OpenedObject object, OpenFile(path, {}));
  return Describe(object.reader);
}

base::Status Inspect(const InspectArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const nlohmann::json described, DescribeFile(args.input));
  if (args.json) {
    fmt::print(stdout, "{}\n", described.dump(1));
    return base::Status::Ok();
  }
  for (const auto& [key, value] : described.items()) {
    fmt::print(stderr, "{:<18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return base::Status::Ok();
}

base::Status VerifyFolder(const VerifyArgs& args) {
  return VerifyStore({.folder = args.input, .repair = args.repair, .json = args.json});
}

// Whether the object was decoded, not only its checksums verified: that takes the profile it names.
base::Result<bool> VerifyObject(const VerifyArgs& args) {
  if (args.repair || args.json) {
    return base::InvalidArgument("{}: --repair and --json are for the folder of a disk store", args.input);
  }
  KVPLANE_ASSIGN_OR_RETURN(const codec::ProfileSet profiles, ReadProfileFiles(args.profiles));
  KVPLANE_ASSIGN_OR_RETURN(const OpenedObject object, OpenFile(args.input, {.profiles = &profiles}));
  const codec::ObjectInfo& info = object.reader.info();
  const bool decodable = object.reader.CheckDecodable().ok();
  const base::Status checked =
      decodable ? DecodeValues(object).status() : object.reader.VerifyChecksums(object.bytes);
  if (!checked.ok()) return checked.Annotate(args.input);
  const std::string found =
      decodable ? std::string("ok")
                : fmt::format("checksums ok, not decoded (profile {} is not loaded: --profile)",
                              codec::ProfileId{info.identity.profile}.ToHex());
  fmt::print(stderr, "{}: {}, {} layers of {} tiles, {} tokens, ratio {:.3f}\n", args.input, found,
             info.geometry.layers, info.tiles_per_layer(), info.tokens, RatioOf(object.reader));
  return decodable;
}

}  // namespace

int CmdEncode(const EncodeArgs& args) { return Report(Encode(args)); }
int CmdDecode(const DecodeArgs& args) { return Report(Decode(args)); }
int CmdInspect(const InspectArgs& args) { return Report(Inspect(args)); }
int CmdVerify(const VerifyArgs& args) {
  std::error_code ignored;
  if (std::filesystem::is_directory(args.input, ignored)) return Report(VerifyFolder(args));
  const base::Result<bool> decoded = VerifyObject(args);
  if (!decoded.ok()) return Report(decoded.status());
  return *decoded ? kExitOk : kExitNotDecoded;
}

}  // namespace kvplane::cli
