// In place of ucx_transport.cc where UCX is not built in.
#include "kvplane/transport/ucx_transport.h"

namespace kvplane::transport {

bool UcxIsBuilt() { return false; }

base::Result<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& /*options*/) {
  return base::Unimplemented(
      "this kvplane was built without UCX: install libucx-dev and configure with -DKVPLANE_UCX=ON");
}

}  // namespace kvplane::transport
