/* Secure flash: CFI parallel NOR with the Intel command set (Intel 28F programming; QEMU
 * hw/block/pflash_cfi01.c). */
#ifndef FLEX_TOS_KERNEL_FLASH_HPP
#define FLEX_TOS_KERNEL_FLASH_HPP

#include "core/secure_store.hpp"

namespace flex::tos {

/* offset and bytes: multiples of 4, within the last MiB */
void flash_read(u64 offset, void* to, u64 bytes);
/* The two sectors of the store. */
StoreFlash& store_flash();

} // namespace flex::tos

#endif
