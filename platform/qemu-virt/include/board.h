/*
 * Memory map and times of QEMU's `virt` machine as FlexServe uses it (QEMU hw/arm/virt.c, base_memmap; TF-A plat/qemu/qemu/include/
 * platform_def.h). Plain numbers only, so that assembly, C, C++ and linker scripts can include it.
 */
#ifndef FLEX_PLATFORM_BOARD_H
#define FLEX_PLATFORM_BOARD_H

/* ---- Secure world only (QEMU maps these for secure accesses alone when secure=on) ---- */

/* Flash 0: a file of the device on the host. CFI parallel flash, Intel command set, 2 x 16 bit. */
#define BOARD_SECURE_FLASH_BASE 0x00000000
#define BOARD_SECURE_FLASH_BYTES 0x04000000
#define BOARD_SECURE_FLASH_SECTOR_BYTES 0x00040000
#define BOARD_FLASH_BL1_OFFSET 0x00000000
#define BOARD_FLASH_FIP_OFFSET 0x00040000

/*
 * Last MiB of flash 0: four erase sectors.
 * Sector 0: the device root key, written when the device is made, never by the device. 32 bytes at its start.
 * Sectors 1 and 2: the two copies of the trusted OS's rollback-proof store. Sector 3: spare.
 */
#define BOARD_FLASH_ROOT_KEY_OFFSET 0x03f00000
#define BOARD_FLASH_ROOT_KEY_BYTES 32
#define BOARD_FLASH_STORE_A_OFFSET 0x03f40000
#define BOARD_FLASH_STORE_B_OFFSET 0x03f80000

#define BOARD_SECURE_UART_BASE 0x09040000 /* PL011 */
#define BOARD_SECURE_RAM_BASE 0x0e000000
#define BOARD_SECURE_RAM_BYTES 0x01000000
/* TF-A leaves BL32 all of secure RAM but its own first MiB (BL32_RAM_LOCATION=tdram). */
#define BOARD_BL32_BASE 0x0e100000
#define BOARD_BL32_BYTES 0x00f00000

/* ---- Both worlds ---- */

#define BOARD_FLASH1_BASE 0x04000000 /* non-secure flash bank; not given to Linux */
#define BOARD_FLASH1_BYTES 0x04000000

#define BOARD_GICD_BASE 0x08000000
#define BOARD_GICD_BYTES 0x00010000
#define BOARD_GICR_BASE 0x080a0000 /* two 64 KiB frames a core */
#define BOARD_GICR_BYTES_PER_CORE 0x00020000
#define BOARD_GICR_BYTES 0x00f60000
/* The ITS would be at 0x08080000; the machine is started with its=off. */

#define BOARD_UART0_BASE 0x09000000 /* PL011, normal world */
#define BOARD_UART0_BYTES 0x00001000
#define BOARD_UART0_SPI 1
#define BOARD_RTC_BASE 0x09010000 /* PL031 */
#define BOARD_RTC_BYTES 0x00001000
#define BOARD_RTC_SPI 2
#define BOARD_FW_CFG_BASE 0x09020000 /* does DMA past the SMMU: not given to Linux */
#define BOARD_GPIO_BASE 0x09030000   /* PL061 */
#define BOARD_GPIO_BYTES 0x00001000
#define BOARD_SMMU_BASE 0x09050000 /* SMMUv3, two 64 KiB register pages */
#define BOARD_SMMU_BYTES 0x00020000
#define BOARD_SMMU_EVENT_SPI 74 /* then PRI, command sync, global error; edge-triggered */
#define BOARD_SECURE_GPIO_BASE 0x090b0000
#define BOARD_VIRTIO_MMIO_BASE 0x0a000000 /* 32 x 0x200; DMA past the SMMU: not given to Linux */
#define BOARD_VIRTIO_MMIO_BYTES 0x00004000

#define BOARD_PCIE_MMIO_BASE 0x10000000
#define BOARD_PCIE_MMIO_BYTES 0x2eff0000
#define BOARD_PCIE_PIO_BASE 0x3eff0000
#define BOARD_PCIE_PIO_BYTES 0x00010000
/* The machine is started with highmem-ecam=off,highmem-mmio=off: everything but DRAM lies below 1 GiB. */
#define BOARD_PCIE_ECAM_BASE 0x3f000000 /* buses 0..15 */
#define BOARD_PCIE_ECAM_BYTES 0x01000000

/*
 * The NPU: a vhost-user device whose carrier is QEMU's virtio sound device (device number 25; the back end decides what it is).
 * One function of bus 0, whose device number is its stream's, times 8.
 */
#define BOARD_NPU_SLOT 0x10
#define BOARD_NPU_PCI_ID 0x10591af4 /* device and vendor, as configuration word 0 has them */
#define BOARD_NPU_VIRTIO_ID 25

/* Interrupt numbers of the architected timers and PMU (PPIs; GIC INTID = 16 + PPI). */
#define BOARD_TIMER_EL1_PHYSICAL_INTID 30
#define BOARD_TIMER_EL1_VIRTUAL_INTID 27
#define BOARD_TIMER_EL2_PHYSICAL_INTID 26

#define BOARD_DRAM_BASE 0x40000000
#define BOARD_DRAM_BYTES_DEFAULT 0x80000000
#define BOARD_DRAM_BYTES_MAX 0x400000000
/* QEMU's memory is fresh at power-on (a new memfd, all zero) and kept over a reset. A board without this has its DRAM zeroed by the monitor. */
#define BOARD_DRAM_IS_ZERO_AT_POWER_ON 1

/*
 * QEMU's devices read and write the memory that the cores see, whatever memory type their accesses or the SMMU's tables have. A board
 * without this needs an SMMU that forces write-back (SMMU_IDR3.FWB), or frames are cleaned and invalidated when they change hands.
 */
#define BOARD_DMA_IS_ALWAYS_COHERENT 1

/* ---- Who lies where in DRAM at start (QEMU's loader, TF-A's BL2) ---- */

#define BOARD_DTB_BASE 0x40000000 /* QEMU puts it there when firmware runs; TF-A adds its nodes in place */
#define BOARD_DTB_BYTES_MAX 0x00100000
#define BOARD_KERNEL_BASE 0x44000000
#define BOARD_KERNEL_BYTES_MAX 0x08000000
#define BOARD_INITRD_BASE 0x4c000000
#define BOARD_INITRD_BYTES_MAX 0x14000000
/* BL33. Nothing else may be loaded from here to the end of the monitor's region. */
#define BOARD_MONITOR_BASE 0x60000000
#define BOARD_MONITOR_REGION_BYTES_MAX 0x06000000
/*
 * One page that the launcher loads for the monitor, since QEMU describes no kernel when firmware boots. Untrusted, like the kernel:
 * u64 magic, u64 kernel bytes, u64 initramfs bytes, then the kernel's command line, NUL-terminated, to the end of the page at most.
 */
#define BOARD_LOADER_INFO_BASE 0x43fff000
#define BOARD_LOADER_INFO_BYTES 0x1000
#define BOARD_LOADER_INFO_MAGIC 0x544f4f4258454c46 /* "FLEXBOOT" */
#define BOARD_LOADER_INFO_COMMAND_LINE_OFFSET 24

#define BOARD_CORES_MAX 4

/* ---- Times ---- */

/*
 * How long a thread of the secure world that could run waits for a core that is there, before another is called for. Several times what a
 * way to the normal world and back costs the core that calls: here some 100 us, since QEMU drops the TLBs and its links between translated
 * blocks at each change of world. On silicon some 10 us.
 */
#define BOARD_HELP_AFTER_NS 1000000

#endif
