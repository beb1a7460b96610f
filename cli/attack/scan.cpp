#include "cli/attack/scan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>

#include "base/crypto.h"
#include "engine/gguf.h"
#include "engine/packing.h"
#include "port/files.h"

namespace flex::attack {
namespace {

constexpr std::size_t kPieceBytes = 64;

/// Bytes that are not the same anywhere else by chance.
bool is_distinctive(std::string_view piece) { return std::set<char>(piece.begin(), piece.end()).size() >= kPieceBytes / 2; }

/// The module's command line: every byte is combined with one mask, so that no pattern enters the device in the clear.
std::string scan_command(const std::vector<Pattern>& patterns) {
    std::array<std::byte, 1> mask{};
    if (!crypto::random(mask)) throw platform::DeviceError("this machine has no random numbers");
    mask[0] |= std::byte{1}; // not zero: that would hide nothing
    std::string command = "scan " + crypto::hex(mask);
    for (const Pattern& pattern : patterns) {
        std::string hidden = pattern.bytes;
        for (char& c : hidden) c = static_cast<char>(c ^ std::to_integer<char>(mask[0]));
        command += " " + crypto::hex(crypto::bytes_of(hidden));
    }
    return command;
}

/// The label of the pattern in the module's words "pattern N of M lies in normal memory ...".
std::string label_in(const std::string& how, const std::vector<Pattern>& patterns) {
    unsigned index = 0;
    if (std::sscanf(how.c_str(), "pattern %u of", &index) != 1 || index == 0 || index > patterns.size()) return "something secret";
    return patterns[index - 1].label;
}

} // namespace

std::vector<Pattern> weight_pieces(const std::filesystem::path& path, std::size_t count) {
    const auto file = port::MappedFile::open(path);
    if (!file) throw platform::DeviceError(file.error().message);
    const auto gguf = engine::Gguf::parse(file->bytes());
    if (!gguf) throw platform::DeviceError(path.string() + ": " + gguf.error().message);
    const auto model = engine::Model::plan(*gguf);
    if (!model) throw platform::DeviceError(path.string() + ": " + model.error().message);
    std::vector<const engine::TensorNeed*> tensors;
    for (const engine::TensorNeed& tensor : model->tensors())
        if (tensor.type == engine::TensorType::kQ8_0 && tensor.bytes >= 64 * kPieceBytes) tensors.push_back(&tensor);
    if (tensors.empty()) throw platform::DeviceError(path.string() + " has no quantised weights to look for");
    std::vector<Pattern> pieces;
    for (std::size_t i = 0; pieces.size() < count && i < 4 * count; ++i) {
        const engine::TensorNeed& tensor = *tensors[i * tensors.size() / count % tensors.size()];
        // Somewhere inside, never at a block's or a page's start; as the kernels see it in memory.
        const std::uint64_t at = (tensor.bytes - kPieceBytes) / 5 * (1 + i % 4) + 7;
        std::string piece(kPieceBytes, '\0');
        const auto read = [&](std::uint64_t offset, std::span<std::byte> out) -> Status {
            std::ranges::copy(file->bytes().subspan(tensor.file_offset + offset, out.size()), out.begin());
            return {};
        };
        if (!engine::read_tensor(tensor, at, std::as_writable_bytes(std::span(piece)), read)) continue;
        if (is_distinctive(piece)) pieces.push_back({"weights-" + std::to_string(pieces.size()), piece});
    }
    if (pieces.empty()) throw platform::DeviceError(path.string() + " has no weights worth looking for");
    return pieces;
}

Outcome scan(Target& target, const std::vector<Pattern>& secrets) {
    Outcome outcome = target.kernel_outcome(scan_command(secrets), std::chrono::minutes(5));
    if (outcome.verdict == Verdict::kBreach) outcome.how = label_in(outcome.how, secrets) + ": " + outcome.how;
    return outcome;
}

} // namespace flex::attack
