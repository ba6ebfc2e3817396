# One folder = one library = one namespace = one target = one test binary.
include_guard()
include(GoogleTest OPTIONAL)

# Warnings and sanitizers for our own code only (PRIVATE: consumers choose theirs).
function(kvplane_compile_options target)
  target_compile_options(
    ${target}
    PRIVATE -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wvla
            -Wnon-virtual-dtor
            $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
            $<$<BOOL:${KVPLANE_WERROR}>:-Werror>)
  if(KVPLANE_SANITIZE)
    string(REPLACE ";" "," sanitizers "${KVPLANE_SANITIZE}")
    target_compile_options(${target} PRIVATE -fsanitize=${sanitizers}
                                             -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${sanitizers})
  endif()
  if(KVPLANE_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# kvplane_library(NAME x HEADERS a.h SOURCES a.cc DEPS kvplane::base PRIVATE_DEPS fmt::fmt)
# HEADERS are public, compile alone (checked by all_verify_interface_header_sets).
function(kvplane_library)
  cmake_parse_arguments(ARG "" "NAME" "HEADERS;SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  set(target kvplane_${ARG_NAME})
  add_library(${target} STATIC ${ARG_SOURCES})
  add_library(kvplane::${ARG_NAME} ALIAS ${target})
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}
                                  FILES ${ARG_HEADERS})
  target_link_libraries(${target} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON
                                             LINKER_LANGUAGE CXX)
  kvplane_compile_options(${target})
endfunction()

# kvplane_test(LIB x SOURCES a_test.cc DEPS ...): the one test binary of library x; kvplane_tests builds all of
# them without the command line (the sanitizer builds need no more).
function(kvplane_test)
  if(NOT KVPLANE_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "LIB" "SOURCES;DEPS" ${ARGN})
  set(target kvplane_${ARG_LIB}_test)
  add_executable(${target} ${ARG_SOURCES})
  target_link_libraries(${target} PRIVATE kvplane::${ARG_LIB} ${ARG_DEPS}
                                          GTest::gtest_main GTest::gmock)
  target_compile_definitions(
    ${target} PRIVATE KVPLANE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  kvplane_compile_options(${target})
  if(NOT TARGET kvplane_tests)
    add_custom_target(kvplane_tests)
  endif()
  add_dependencies(kvplane_tests ${target})
  add_test(NAME ${ARG_LIB} COMMAND ${target})
  set_tests_properties(${ARG_LIB} PROPERTIES TIMEOUT 600 LABELS library)
endfunction()

# kvplane_fuzz(NAME object DEPS kvplane::codec): fuzz/<name>_fuzz.cc with a seed corpus.
function(kvplane_fuzz)
  cmake_parse_arguments(ARG "" "NAME" "DEPS" ${ARGN})
  set(target ${ARG_NAME}_fuzz)
  add_executable(${target} ${target}.cc)
  target_link_libraries(${target} PRIVATE ${ARG_DEPS})
  kvplane_compile_options(${target})
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
endfunction()
