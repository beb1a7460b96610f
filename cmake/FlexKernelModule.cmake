# flex_add_kernel_module(NAME FOLDER folder FILES file...): builds FOLDER's NAME.ko through Kbuild against the fetched
# headers. FILES (relative to FOLDER) are all it consists of, Kbuild or Makefile included. Kbuild writes beside its sources, so they are copied
# into the build directory first. In the Makefile FLEX_ROOT is the repository: `ccflags-y += -I$(FLEX_ROOT)`.
# Result: FLEX_MODULE_DIR/NAME.ko; target NAME_ko. Warnings of W=1 are errors.
set(FLEX_MODULE_DIR ${CMAKE_BINARY_DIR}/modules)
file(MAKE_DIRECTORY ${FLEX_MODULE_DIR})
add_custom_target(kernel_modules ALL)

function(flex_add_kernel_module name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "FOLDER" "FILES")
    get_filename_component(folder ${arg_FOLDER} ABSOLUTE)
    set(work ${CMAKE_BINARY_DIR}/kbuild/${name})
    set(sources)
    foreach(file IN LISTS arg_FILES)
        list(APPEND sources ${folder}/${file})
    endforeach()
    file(GLOB abi_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/abi/*.h)
    add_custom_command(OUTPUT ${FLEX_MODULE_DIR}/${name}.ko
        COMMAND ${CMAKE_COMMAND} -E make_directory ${work}
        COMMAND cp -u ${sources} ${work}/
        COMMAND env -u CFLAGS -u CPPFLAGS -u LDFLAGS -u MAKEFLAGS
            make -s -C ${FLEX_TARGET_DIR}/headers/build M=${work} ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-
            CONFIG_DEBUG_INFO_BTF_MODULES= W=1 KCFLAGS=-Werror FLEX_ROOT=${PROJECT_SOURCE_DIR} modules
        COMMAND ${CMAKE_STRIP} --strip-debug -o ${FLEX_MODULE_DIR}/${name}.ko ${work}/${name}.ko
        DEPENDS ${sources} ${abi_headers} VERBATIM)
    add_custom_target(${name}_ko DEPENDS ${FLEX_MODULE_DIR}/${name}.ko)
    add_dependencies(kernel_modules ${name}_ko)
    set_property(GLOBAL APPEND PROPERTY flex_kernel_modules ${FLEX_MODULE_DIR}/${name}.ko)
endfunction()
