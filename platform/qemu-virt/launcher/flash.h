// The device's secure flash: a 64 MiB file that holds firmware, root key and rollback store (include/board.h).
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>

#include "launcher/paths.h"

namespace flex::platform {

using RootKey = std::array<unsigned char, 32>;

/// The manufacturer's step: makes a blank flash with a fresh random root key. The file appears whole or not at all, mode
/// 0600. Throws DeviceError when it exists or cannot be written.
void create_flash(const std::filesystem::path& file);

/// The manufacturer's knowledge, from which the device's public identity is computed. Never leaves the host.
[[nodiscard]] RootKey read_root_key(const std::filesystem::path& file);

/// Writes BL1 and a FIP of the other images to their places; leaves root key and rollback store alone.
/// `scratch` is a folder for the temporary FIP. Skips the writing when nothing changed.
void write_firmware(const std::filesystem::path& flash, const Firmware& firmware, const std::filesystem::path& scratch);

} // namespace flex::platform
