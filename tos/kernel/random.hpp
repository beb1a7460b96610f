/* Secrets of the device and random numbers. */
#ifndef FLEX_TOS_KERNEL_RANDOM_HPP
#define FLEX_TOS_KERNEL_RANDOM_HPP

#include "kernel/program.hpp"

namespace flex::tos {

/* Once, on the first core: the root key and the store. */
void load_secrets();
/* HMAC-SHA256(device root key, label) */
[[nodiscard]] Digest device_key(Bytes label);

/*
 * Seeds the generator for a new program: from RNDR, and without it from the root key with a counter that the
 * secure store keeps, so that no two starts are alike; the timing of the cores is mixed in but never relied
 * on. False: more to do, call again.
 */
[[nodiscard]] bool seed_step();

} // namespace flex::tos

#endif
