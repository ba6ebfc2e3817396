# Every external package in one place; scripts/install-deps installs them.
include_guard()

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()

find_package(Threads REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(absl REQUIRED)
find_package(fmt CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(tl-expected CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(Eigen3 3.4 CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(RocksDB CONFIG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(LZ4 REQUIRED IMPORTED_TARGET liblz4)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
if(KVPLANE_UCX)
  find_package(ucx CONFIG REQUIRED)
endif()
if(KVPLANE_TESTS)
  find_package(GTest REQUIRED)
endif()

# Debian ships Asio without a CMake package. Clang does not detect coroutines in
# Asio 1.22 by itself, hence two definitions. The third: Asio chooses between
# aligned_alloc and operator new by whether a standard header came before it, so
# two files may disagree and free each other's memory with the wrong function.
find_path(ASIO_INCLUDE_DIR asio.hpp REQUIRED)
add_library(kvplane_asio INTERFACE)
target_include_directories(kvplane_asio SYSTEM INTERFACE ${ASIO_INCLUDE_DIR})
target_compile_definitions(
  kvplane_asio
  INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED ASIO_HAS_STD_ALIGNED_ALLOC=1
            $<$<CXX_COMPILER_ID:Clang>:ASIO_HAS_CO_AWAIT=1>
            $<$<CXX_COMPILER_ID:Clang>:ASIO_HAS_STD_COROUTINE=1>)
target_compile_options(kvplane_asio
                       INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
target_link_libraries(kvplane_asio INTERFACE Threads::Threads)

# find_package(dnnl) of Debian insists on OpenCL headers; an own target does not.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(DNNL::dnnl SHARED IMPORTED)
set_target_properties(
  DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
