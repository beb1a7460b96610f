/*
 * The only code that touches the program's memory. LDTR and STTR act with S-EL0's permissions (and so past PAN), hence an
 * address of the kernel or a read-only page faults like anything else. A fault between copy_user_begin and copy_user_end
 * continues at the routine's fix-up.
 *
 * u64 copy_{from,to}_user_raw(to, from, bytes) -> bytes not copied.
 */
    .text
    .balign 64
    .global copy_user_begin, copy_user_end, copy_user_fixup
copy_user_begin:

    .global copy_from_user_raw
copy_from_user_raw:
    cmp x2, #32
    b.lo 2f
1:  ldtr x3, [x1]
    ldtr x4, [x1, #8]
    ldtr x5, [x1, #16]
    ldtr x6, [x1, #24]
    stp x3, x4, [x0]
    stp x5, x6, [x0, #16]
    add x0, x0, #32
    add x1, x1, #32
    sub x2, x2, #32
    cmp x2, #32
    b.hs 1b
2:  cbz x2, 3f
    ldtrb w3, [x1]
    strb w3, [x0], #1
    add x1, x1, #1
    sub x2, x2, #1
    b 2b
3:  mov x0, xzr
    ret

    .global copy_to_user_raw
copy_to_user_raw:
    cmp x2, #32
    b.lo 2f
1:  ldp x3, x4, [x1]
    ldp x5, x6, [x1, #16]
    sttr x3, [x0]
    sttr x4, [x0, #8]
    sttr x5, [x0, #16]
    sttr x6, [x0, #24]
    add x0, x0, #32
    add x1, x1, #32
    sub x2, x2, #32
    cmp x2, #32
    b.hs 1b
2:  cbz x2, 3f
    ldrb w3, [x1], #1
    sttrb w3, [x0]
    add x0, x0, #1
    sub x2, x2, #1
    b 2b
3:  mov x0, xzr
    ret

/* u64 load_user_u32_raw(u32* to, u64 from): one access, for futex words. 0, or 4 after a fault. */
    .global load_user_u32_raw
load_user_u32_raw:
    mov x2, #4
    ldtr w3, [x1]
    str w3, [x0]
    mov x0, xzr
    ret
copy_user_end:

copy_user_fixup:
    mov x0, x2
    ret

/*
 * zero_memory(address, bytes): both multiples of 4 KiB, so of every size DC ZVA may have (DCZID_EL0: 4 << BS, at most 2 KiB). With
 * FEAT_MOPS (ID_AA64ISAR2_EL1) the core chooses its own way; EL1 of the secure state has the instructions while no S-EL2 is in use.
 */
    .arch_extension mops
    .global zero_memory
zero_memory:
    mrs x2, s3_0_c0_c6_2
    ubfx x2, x2, #16, #4
    cbz x2, 3f
    setp [x0]!, x1!, xzr
    setm [x0]!, x1!, xzr
    sete [x0]!, x1!, xzr
    ret
3:  mrs x2, dczid_el0
    tbnz x2, #4, 2f /* DZP: prohibited */
    and x2, x2, #15
    mov x3, #4
    lsl x2, x3, x2 /* block size in bytes */
1:  dc zva, x0
    add x0, x0, x2
    subs x1, x1, x2
    b.hi 1b
    ret
2:  stp xzr, xzr, [x0], #16
    subs x1, x1, #16
    b.hi 2b
    ret

/* memcpy, memset, memcmp, memmove: the compiler calls them. Aligned words where possible; they also run before the MMU is on. */
    .global memmove
memmove:
    cmp x0, x1
    b.ls memcpy
    add x3, x1, x2
    cmp x0, x3
    b.hs memcpy
    cbz x2, 2f
1:  sub x2, x2, #1
    ldrb w4, [x1, x2]
    strb w4, [x0, x2]
    cbnz x2, 1b
2:  ret

    .global memcpy
memcpy:
    mov x3, x0
    orr x4, x0, x1
    tst x4, #7
    b.ne 3f
1:  cmp x2, #16
    b.lo 3f
    ldp x4, x5, [x1], #16
    stp x4, x5, [x3], #16
    sub x2, x2, #16
    b 1b
3:  cbz x2, 4f
    ldrb w4, [x1], #1
    strb w4, [x3], #1
    sub x2, x2, #1
    b 3b
4:  ret

    .global memset
memset:
    mov x3, x0
    and x1, x1, #0xff
    tst x0, #7
    b.ne 3f
    ldr x4, =0x0101010101010101
    mul x4, x1, x4
1:  cmp x2, #16
    b.lo 3f
    stp x4, x4, [x3], #16
    sub x2, x2, #16
    b 1b
3:  cbz x2, 4f
    strb w1, [x3], #1
    sub x2, x2, #1
    b 3b
4:  ret

    .global memcmp
memcmp:
    cbz x2, 2f
1:  ldrb w3, [x0], #1
    ldrb w4, [x1], #1
    subs w3, w3, w4
    b.ne 3f
    subs x2, x2, #1
    b.ne 1b
2:  mov w3, wzr
3:  mov w0, w3
    ret
