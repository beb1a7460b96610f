#include "cli/sim_device.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "cli/synth_shapes.h"

namespace flex::cli {
namespace {

constexpr double kQ8BytesPerWeight = 34.0 / 32;

// What the published system's figures say of its board: INT8 models of 0.6B and 8B on the NPU, tokens/s.
constexpr double kSmallPrefill = 643, kLargePrefill = 70, kSmallDecode = 33, kLargeDecode = 3.6;
constexpr const char* kSmall = "qwen3-0.6b";
constexpr const char* kLarge = "llama-3.1-8b";
constexpr double kNvme = 2.4e9, kEmmc = 0.3e9;
// Assumed, not published: AES-GCM on the four A76 cores, which the NPU's prefill leaves free.
constexpr double kDecrypt = 4e9;

const Shape& shape_of(const std::string& name) {
    for (const Shape& shape : known_shapes()) {
        if (shape.name == name) return shape;
    }
    std::string names;
    for (const Shape& shape : known_shapes()) names += " " + std::string(shape.name);
    throw std::runtime_error("there is no shape \"" + name + "\"; known are:" + names);
}

double layer_weights(const Shape& s) {
    const double width = s.width, q = static_cast<double>(s.heads) * s.head_size,
                 kv = static_cast<double>(s.kv_heads) * s.head_size;
    return 2 * width * q + 2 * width * kv + 3 * width * s.ff_width;
}

double all_layers(const Shape& s) { return layer_weights(s) * s.layers; }

std::uint64_t q8_bytes(double weights) { return static_cast<std::uint64_t>(weights * kQ8BytesPerWeight); }

/// On the straight line through both published models, in logarithms.
double between(double weights, double small, double large) {
    const double from = all_layers(shape_of(kSmall)), to = all_layers(shape_of(kLarge));
    return small * std::pow(weights / from, std::log(large / small) / std::log(to / from));
}

} // namespace

std::vector<DeviceProfile> known_profiles() {
    return {{"rk3588-nvme", kNvme, kDecrypt}, {"rk3588-emmc", kEmmc, kDecrypt}};
}

sim::Model rk3588_model(const std::string& name) {
    const Shape& s = shape_of(name);
    const double embedding = static_cast<double>(s.vocabulary) * s.width;
    return sim::make_model(name, q8_bytes(embedding), s.layers, q8_bytes(layer_weights(s)),
                           s.tied_head ? s.width * 4 : q8_bytes(embedding),
                           between(all_layers(s), kSmallPrefill, kLargePrefill),
                           between(all_layers(s), kSmallDecode, kLargeDecode));
}

} // namespace flex::cli
