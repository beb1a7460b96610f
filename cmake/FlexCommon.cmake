# flex_common: warnings and include paths of every C++ target of ours. "abi/…", "framework/…" are included from the root.
add_library(flex_common INTERFACE)
# Warnings are GCC's business: clang, which builds the fuzzers, has others.
target_compile_options(flex_common INTERFACE -Wall -Wextra $<$<NOT:$<BOOL:${FLEX_FUZZ}>>:-Werror>)
target_include_directories(flex_common INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/platform/qemu-virt/include)

# flex_add_test(NAME SOURCES... [LIBRARIES ...]): a GoogleTest program of the host build; every TEST is one ctest test.
# Does nothing in the device build, so a room's CMakeLists.txt can call it unconditionally.
function(flex_add_test name)
    if(FLEX_DEVICE)
        return()
    endif()
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES;DEFINITIONS")
    add_executable(${name} ${arg_SOURCES} ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PRIVATE flex_common ${arg_LIBRARIES} GTest::gtest_main)
    target_compile_definitions(${name} PRIVATE FLEX_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ${arg_DEFINITIONS})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    # PRE_TEST: listing the tests at build time would run every program after each link.
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 300 LABELS unit)
endfunction()

# flex_add_system_test(NAME SOURCES... [LIBRARIES ...]): a GoogleTest program that boots devices; `flexserve test` runs it as a
# whole (one boot serves many tests), so ctest does not know it.
function(flex_add_system_test name)
    if(FLEX_DEVICE)
        return()
    endif()
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES;DEFINITIONS")
    add_executable(${name} ${arg_SOURCES} ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PRIVATE flex_common flex_launcher ${arg_LIBRARIES} GTest::gtest)
    target_compile_definitions(${name} PRIVATE FLEX_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ${arg_DEFINITIONS})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/system)
endfunction()
