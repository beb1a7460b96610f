# Third-party libraries under names that mean the same in both builds:
#   flex_openssl   libssl and libcrypto 3.0 (device: static, from the fetched arm64 package)
#   flex_httplib   cpp-httplib with OpenSSL
#   flex_json      nlohmann/json
#   flex_log       spdlog (host only)
#   flex_arguments CLI11 (host only)
#   flex_line_editor libedit (host only)
# The includes are SYSTEM: their warnings are not ours.
find_package(Threads REQUIRED)

add_library(flex_openssl INTERFACE)
if(FLEX_DEVICE)
    set(sysroot_lib ${FLEX_TARGET_DIR}/sysroot/usr/lib/aarch64-linux-gnu)
    target_include_directories(flex_openssl SYSTEM INTERFACE
        ${FLEX_TARGET_DIR}/sysroot/usr/include ${FLEX_TARGET_DIR}/sysroot/usr/include/aarch64-linux-gnu)
    target_link_libraries(flex_openssl INTERFACE ${sysroot_lib}/libssl.a ${sysroot_lib}/libcrypto.a)
else()
    find_package(OpenSSL 3.0 REQUIRED)
    target_link_libraries(flex_openssl INTERFACE OpenSSL::SSL OpenSSL::Crypto)
endif()

add_library(flex_httplib INTERFACE)
target_include_directories(flex_httplib SYSTEM INTERFACE ${FLEX_TARGET_DIR}/httplib)
# Between requests it looks so often (us) whether the server is to stop; in the device each look is an RPC, its default 100 a second.
target_compile_definitions(flex_httplib INTERFACE CPPHTTPLIB_OPENSSL_SUPPORT CPPHTTPLIB_USE_POLL
    CPPHTTPLIB_KEEPALIVE_TIMEOUT_CHECK_INTERVAL_USECOND=200000)
target_link_libraries(flex_httplib INTERFACE flex_openssl Threads::Threads)

# Header-only, so the host's package serves both; a folder of its own because /usr/include must not reach the cross compiler.
add_library(flex_json INTERFACE)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/include)
file(CREATE_LINK /usr/include/nlohmann ${CMAKE_BINARY_DIR}/include/nlohmann SYMBOLIC)
target_include_directories(flex_json SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/include)

if(NOT FLEX_DEVICE)
    find_package(GTest REQUIRED)
    find_package(spdlog REQUIRED)
    find_package(CLI11 REQUIRED)
    add_library(flex_log INTERFACE)
    target_link_libraries(flex_log INTERFACE spdlog::spdlog)
    add_library(flex_arguments INTERFACE)
    target_link_libraries(flex_arguments INTERFACE CLI11::CLI11)
    find_library(FLEX_LIBEDIT edit REQUIRED)
    add_library(flex_line_editor INTERFACE)
    target_link_libraries(flex_line_editor INTERFACE ${FLEX_LIBEDIT})
endif()
