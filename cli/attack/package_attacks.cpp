// Whoever has the storage edits, truncates, mixes and replaces packages.
#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

#include "cli/attack/attack.h"
#include "cli/attack/target.h"
#include "package/manifest.h"

namespace flex::attack {
namespace {

namespace fs = std::filesystem;
using platform::DeviceError;

constexpr const char* kName = "attack-package";

std::string read_all(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

void write_all(const fs::path& file, const std::string& content) {
    std::ofstream out(file, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    out.close();
    if (!out) throw DeviceError("cannot write " + file.string());
}

package::Manifest manifest_of(const std::string& content) {
    const auto bytes = crypto::bytes_of(content);
    const auto prefix = package::prefix_bytes(bytes.first(package::kHeaderBytes), content.size());
    if (!prefix) throw DeviceError(prefix.error().message);
    auto manifest = package::parse(bytes.first(*prefix), content.size());
    if (!manifest) throw DeviceError(manifest.error().message);
    return std::move(*manifest);
}

/// Two chunks of weights of the same size.
std::array<std::uint32_t, 2> twins(const package::Manifest& manifest) {
    for (std::uint32_t a = 1; a < manifest.chunks.size(); ++a)
        for (std::uint32_t b = a + 1; b < manifest.chunks.size(); ++b)
            if (manifest.chunks[a].bytes == manifest.chunks[b].bytes) return {a, b};
    throw DeviceError("the package has no two chunks of one size");
}

/// The model is asked for and must not answer. `says`: a word of the reason, so that another failure does not pass for a refusal.
Outcome refused(Target& target, const std::string& name, const std::string& says) {
    const Completion answer = target.api().complete(target.reference_query(name));
    target.remove_package(name);
    if (answer.ok) return breach("the device ran it and answered \"" + answer.text + "\"");
    if (answer.status == 0) return breach("the device gave no answer at all: " + answer.error);
    if (answer.error.find(says) == std::string::npos) return failed("refused for another reason: " + answer.error);
    return blocked(answer.error);
}

/// Seals the model, lets `change` at the file, asks.
Outcome with_changed_file(Target& target, const std::string& says, const std::function<void(std::string&)>& change) {
    target.seal_as(kName);
    std::string content = read_all(target.package_file(kName));
    change(content);
    write_all(target.package_file(kName), content);
    return refused(target, kName, says);
}

Outcome edited_weights(Target& target) {
    return with_changed_file(target, "chunk", [](std::string& content) { content[content.size() - 1234] ^= 1; });
}

Outcome edited_manifest(Target& target) {
    return with_changed_file(target, "sign", [](std::string& content) { content[package::kHeaderBytes + 20] ^= 1; });
}

Outcome swapped_chunks(Target& target) {
    return with_changed_file(target, "chunk", [](std::string& content) {
        const package::Manifest manifest = manifest_of(content);
        const auto [a, b] = twins(manifest);
        const auto begin = content.begin();
        std::swap_ranges(begin + static_cast<std::ptrdiff_t>(manifest.chunk_offset(a)),
                         begin + static_cast<std::ptrdiff_t>(manifest.chunk_offset(a) + manifest.chunks[a].bytes),
                         begin + static_cast<std::ptrdiff_t>(manifest.chunk_offset(b)));
    });
}

/// A chunk of an earlier sealing of the same model: same place, same plaintext, other key.
Outcome spliced_chunk(Target& target) {
    target.seal_as(kName);
    const std::string other = read_all(target.package_file(kName));
    return with_changed_file(target, "chunk", [&](std::string& content) {
        const package::Manifest manifest = manifest_of(content);
        const auto last = static_cast<std::uint32_t>(manifest.chunks.size() - 1);
        content.replace(manifest.chunk_offset(last), manifest.chunks[last].bytes, other, manifest.chunk_offset(last),
                        manifest.chunks[last].bytes);
    });
}

Outcome truncated(Target& target) {
    return with_changed_file(target, "trunc", [](std::string& content) { content.resize(content.size() - 4096); });
}

Outcome renamed(Target& target) {
    const std::string name = "attack-renamed";
    seal_for(target.device(), {.gguf = target.model_file(), .name = kName, .version = 0, .file = target.package_file(name)});
    return refused(target, name, "under another name");
}

Outcome for_another_device(Target& target) {
    seal_for(target.device(), {.gguf = target.model_file(), .name = kName, .version = 0, .file = {}, .for_another_device = true});
    return refused(target, kName, "another device");
}

Outcome by_another_publisher(Target& target) {
    seal_for(target.device(), {.gguf = target.model_file(), .name = kName, .version = 0, .file = {}, .by_another_publisher = true});
    return refused(target, kName, "publisher");
}

} // namespace

std::vector<Attack> package_attacks() {
    return {
        {"package-edited", 16, Kind::kHost, "flips one bit of the encrypted weights", edited_weights},
        {"package-manifest-edited", 16, Kind::kHost, "flips one bit of a package's manifest", edited_manifest},
        {"package-chunks-swapped", 16, Kind::kHost, "exchanges two chunks of weights", swapped_chunks},
        {"package-chunk-spliced", 16, Kind::kHost, "puts in a chunk of another sealing of the same model", spliced_chunk},
        {"package-truncated", 16, Kind::kHost, "cuts off a package's end", truncated},
        {"package-renamed", 18, Kind::kHost, "offers a package under another model's name", renamed},
        {"package-other-device", 18, Kind::kHost, "offers a package sealed for another device", for_another_device},
        {"package-other-publisher", 18, Kind::kHost, "offers a package of a publisher the device does not know", by_another_publisher},
    };
}

} // namespace flex::attack
