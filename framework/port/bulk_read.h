// Large reads from storage on Linux.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace flex::port {

/// Fills `out` from an open regular file. What lies in the page cache is copied from there; the rest comes
/// past it (O_DIRECT, several requests under way at a time), because copying costs the time of a core that
/// has better to do, and weights in the cache would be a second copy in memory. Where the file system,
/// offset, size or address do not allow that, it is read in the ordinary way. Any thread. Error: kIo (also
/// when the file ends early).
Status read_bulk(int file, std::uint64_t offset, std::span<std::byte> out);

} // namespace flex::port
