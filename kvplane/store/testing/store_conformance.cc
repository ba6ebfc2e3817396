#include "kvplane/store/testing/store_conformance.h"

namespace kvplane::store {

// In the sources of the tests: naming them makes the linker take these out of their library.
void LinkConformanceOfReads();
void LinkConformanceOfLives();
void LinkConformanceOfThreads();

std::string StoreCaseName(const ::testing::TestParamInfo<StoreCase>& info) {
  LinkConformanceOfReads();
  LinkConformanceOfLives();
  LinkConformanceOfThreads();
  return info.param.name;
}

void StoreConformance::Create(uint64_t capacity_bytes) {
  harness_.reset();
  harness_ = GetParam().create(capacity_bytes);
  ASSERT_NE(harness_, nullptr);
}

}  // namespace kvplane::store
