/* The image: text, read-only data with the program, data; then memory that is cleared at the start; then tables. */
#include "arch/layout.h"

OUTPUT_ARCH(aarch64)
ENTRY(_start)

SECTIONS
{
    . = TOS_VIRTUAL_OFFSET + BOARD_BL32_BASE;
    __image_start = .;
    .text : {
        *(.text.identity)
        . = ALIGN(4096);
        __identity_end = .;
        *(.text .text.*)
        . = ALIGN(4096);
    }
    __rodata_start = .;
    .rodata : {
        *(.rodata .rodata.*)
        . = ALIGN(4096);
        *(.program)
        . = ALIGN(4096);
    }
    __data_start = .;
    .data : {
        *(.data .data.*)
        . = ALIGN(16);
    }
    __bss_start = .;
    .bss (NOLOAD) : {
        *(.bss .bss.* COMMON)
        . = ALIGN(4096);
    }
    __bss_end = .;
    /* Per core: guard, stack, guard, panic stack. */
    .stacks (NOLOAD) : {
        __stacks_start = .;
        . = . + TOS_GUARD_BYTES + TOS_STACK_BYTES;
        __stack0_top = .;
        . = __stacks_start + BOARD_CORES_MAX * TOS_STACK_STRIDE;
        __stacks_end = .;
    }
    __tables_start = .;
    __ram_end = TOS_VIRTUAL_OFFSET + BOARD_BL32_BASE + BOARD_BL32_BYTES;

    ASSERT(__identity_end == __image_start + 4096, "the identity page is one page")
    ASSERT(__tables_start + 0x100000 <= __ram_end, "secure RAM is too small for the program: less than 1 MiB is left for tables")
    /DISCARD/ : { *(.comment) *(.note.*) *(.eh_frame*) *(.ARM.*) }
}
