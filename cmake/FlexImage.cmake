# Bare-metal images of the device: Flex-Monitor and the trusted OS.
set(FLEX_IMAGE_DIR ${CMAKE_BINARY_DIR}/images)
file(MAKE_DIRECTORY ${FLEX_IMAGE_DIR})
add_custom_target(images ALL)
# Defence-removed builds: the attack tests show with them that they can fail. Built on request: ninja variants.
add_custom_target(variants)

# armv8.2-a: what both the emulated CPU and the RK3588 have. No FP registers: they belong to the lower exception level.
add_library(flex_freestanding INTERFACE)
target_compile_options(flex_freestanding INTERFACE
    -ffreestanding -march=armv8.2-a -mgeneral-regs-only -mno-outline-atomics -fno-pic -fno-pie -fno-common
    -fno-stack-protector -fno-asynchronous-unwind-tables -fno-omit-frame-pointer -ffunction-sections -fdata-sections
    $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions -fno-rtti -fno-threadsafe-statics -fno-use-cxa-atexit>)
target_link_options(flex_freestanding INTERFACE
    -nostdlib -static -no-pie -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,--no-warn-rwx-segments
    -Wl,--fatal-warnings)
target_link_libraries(flex_freestanding INTERFACE flex_common)

# flex_embed(TARGET VARIABLE): generates an assembly file that carries the stripped program TARGET in section .program, 4 KiB
# aligned, between the symbols flex_program_begin and flex_program_end, and sets VARIABLE to its name.
function(flex_embed target variable)
    set(stripped ${CMAKE_BINARY_DIR}/embed/${target})
    set(source ${CMAKE_BINARY_DIR}/embed/${target}.S)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/embed)
    if(NOT TARGET embed_${target})
        add_custom_command(OUTPUT ${stripped}
            COMMAND ${CMAKE_STRIP} -o ${stripped} $<TARGET_FILE:${target}>
            DEPENDS ${target} VERBATIM)
        add_custom_target(embed_${target} DEPENDS ${stripped})
        file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [[
    .section .program, "a", @progbits
    .balign 4096
    .globl flex_program_begin, flex_program_end
flex_program_begin:
    .incbin "@stripped@"
flex_program_end:
    .balign 4096
]])
    endif()
    set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS ${stripped})
    set(${variable} ${source} PARENT_SCOPE)
endfunction()

function(flex_preprocess_linker_script source output includes)
    set(flags -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/platform/qemu-virt/include)
    foreach(folder IN LISTS includes)
        get_filename_component(folder ${folder} ABSOLUTE)
        list(APPEND flags -I${folder})
    endforeach()
    add_custom_command(OUTPUT ${output}
        COMMAND ${CMAKE_C_COMPILER} -E -P -x assembler-with-cpp -D__LINKER__ ${flags} -MD -MT ${output} -MF ${output}.d
            -o ${output} ${source}
        DEPENDS ${source} DEPFILE ${output}.d VERBATIM)
endfunction()

# One linked image: ELF (with symbols, for gdb and addr2line) and .bin, both in FLEX_IMAGE_DIR.
function(flex_link_image name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "LINKER_SCRIPT;PROGRAM" "SOURCES;DEFINITIONS;INCLUDES;OPTIONS")
    add_executable(${name} EXCLUDE_FROM_ALL ${arg_SOURCES})
    if(arg_PROGRAM)
        flex_embed(${arg_PROGRAM} embedded)
        target_sources(${name} PRIVATE ${embedded})
        add_dependencies(${name} embed_${arg_PROGRAM})
    endif()
    target_link_libraries(${name} PRIVATE flex_freestanding)
    target_include_directories(${name} PRIVATE ${arg_INCLUDES})
    target_compile_definitions(${name} PRIVATE ${arg_DEFINITIONS})
    target_compile_options(${name} PRIVATE ${arg_OPTIONS})
    # A generated script must exist before the link; naming it as a source makes ninja wait for it.
    target_sources(${name} PRIVATE ${arg_LINKER_SCRIPT})
    target_link_options(${name} PRIVATE -T ${arg_LINKER_SCRIPT} -Wl,-Map,${FLEX_IMAGE_DIR}/${name}.map)
    # libgcc holds what the compiler may call on its own (128-bit division). Some of it uses FP registers, which are not ours
    # to change: the image is searched for them.
    target_link_libraries(${name} PRIVATE gcc)
    set_target_properties(${name} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${FLEX_IMAGE_DIR} OUTPUT_NAME ${name}.elf LINK_DEPENDS ${arg_LINKER_SCRIPT})
    add_custom_command(TARGET ${name} POST_BUILD
        COMMAND ${PROJECT_SOURCE_DIR}/cmake/check-no-fp.sh ${CMAKE_OBJDUMP} $<TARGET_FILE:${name}> VERBATIM)
    add_custom_command(OUTPUT ${FLEX_IMAGE_DIR}/${name}.bin
        COMMAND ${CMAKE_OBJCOPY} -O binary $<TARGET_FILE:${name}> ${FLEX_IMAGE_DIR}/${name}.bin
        DEPENDS ${name} VERBATIM)
    add_custom_target(${name}_bin DEPENDS ${FLEX_IMAGE_DIR}/${name}.bin)
endfunction()

# flex_add_image(NAME LINKER_SCRIPT file SOURCES ... [PROGRAM target] [DEFINITIONS ...] [INCLUDES ...] [OPTIONS ...]
#                [WITHOUT defence ...])
# A linker script whose name ends in .S goes through the preprocessor first, with the include paths of the sources.
# Builds images/NAME.bin, and for each word D of WITHOUT (lower_case) the target and image NAME-without-D, compiled
# with -DFLEX_WITHOUT_<D in capitals>=1. SOURCES are C++ and assembly; paths are relative to the caller.
function(flex_add_image name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "LINKER_SCRIPT;PROGRAM" "SOURCES;DEFINITIONS;INCLUDES;OPTIONS;WITHOUT")
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "flex_add_image(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
    endif()
    get_filename_component(script ${arg_LINKER_SCRIPT} ABSOLUTE)
    if(script MATCHES "\\.S$")
        flex_preprocess_linker_script(${script} ${FLEX_IMAGE_DIR}/${name}.lds "${arg_INCLUDES}")
        set(script ${FLEX_IMAGE_DIR}/${name}.lds)
    endif()
    set(program)
    if(arg_PROGRAM)
        set(program PROGRAM ${arg_PROGRAM})
    endif()
    flex_link_image(${name} LINKER_SCRIPT ${script} ${program} SOURCES ${arg_SOURCES} DEFINITIONS ${arg_DEFINITIONS}
        INCLUDES ${arg_INCLUDES} OPTIONS ${arg_OPTIONS})
    add_dependencies(images ${name}_bin)
    foreach(defence IN LISTS arg_WITHOUT)
        string(TOUPPER ${defence} upper)
        flex_link_image(${name}-without-${defence} LINKER_SCRIPT ${script} ${program} SOURCES ${arg_SOURCES}
            DEFINITIONS ${arg_DEFINITIONS} FLEX_WITHOUT_${upper}=1 INCLUDES ${arg_INCLUDES} OPTIONS ${arg_OPTIONS})
        add_dependencies(variants ${name}-without-${defence}_bin)
    endforeach()
endfunction()
