#include "kvplane/profile/kv_recoder.h"

#include <cstddef>
#include <vector>

#include "kvplane/codec/object.h"

namespace kvplane::profile {

base::Result<uint64_t> Recode(const tensor::KvGeometry& geometry, const codec::Strategy& strategy,
                              const std::shared_ptr<const codec::ModelProfile>& profile,
                              std::span<const tensor::LayerPages> from, uint32_t tokens,
                              codec::Workspace& workspace, std::span<const tensor::LayerPages> to) {
  codec::ObjectInfo info;
  info.geometry = geometry;
  info.tokens = tokens;
  info.strategy = strategy;
  KVPLANE_ASSIGN_OR_RETURN(codec::ObjectWriter writer, codec::ObjectWriter::Create(info, profile));
  for (const tensor::LayerPages& layer : from) {
    KVPLANE_RETURN_IF_ERROR(writer.AppendLayer(layer, workspace));
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::byte> object, writer.Finish());
  codec::ProfileSet profiles;
  if (profile != nullptr) profiles.Add(profile);
  codec::OpenOptions options;
  options.profiles = &profiles;
  KVPLANE_ASSIGN_OR_RETURN(const codec::ObjectReader reader, codec::ObjectReader::Open(object, options));
  KVPLANE_RETURN_IF_ERROR(reader.DecodeAll(object, workspace, to));
  return uint64_t{object.size()};
}

}  // namespace kvplane::profile
