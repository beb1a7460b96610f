// A package's manifest behind a good signature: what a publisher who is trusted could make a device read.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "package/manifest.h"
#include "package/package.h"

using namespace flex;

namespace {

/// Puts a header with a valid signature in front (docs/package-format.md).
std::vector<std::byte> signed_prefix(std::span<const std::byte> manifest) {
    static const crypto::Secret32 key; // all zero will do
    std::vector<std::byte> out(package::kHeaderBytes);
    std::memcpy(out.data(), "FLEXPKG\n", 8);
    const std::uint32_t format = package::kFormatVersion, size = static_cast<std::uint32_t>(manifest.size());
    std::memcpy(out.data() + 8, &format, 4);
    std::memcpy(out.data() + 12, &size, 4);
    std::ranges::copy(crypto::ed25519_public(key).value(), out.begin() + 16);
    std::vector<std::byte> message;
    for (const char c : std::string_view("flexserve package signature v1\n"))
        message.push_back(static_cast<std::byte>(c));
    message.insert(message.end(), out.begin(), out.begin() + 48);
    message.insert(message.end(), manifest.begin(), manifest.end());
    std::ranges::copy(crypto::ed25519_sign(key, message).value(), out.begin() + 48);
    out.insert(out.end(), manifest.begin(), manifest.end());
    return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size < 8 || size > (1u << 16)) return 0;
    // The first 8 bytes: what the file claims to be long; the rest: the manifest.
    std::uint64_t file_bytes = 0;
    std::memcpy(&file_bytes, data, sizeof file_bytes);
    const std::span rest(reinterpret_cast<const std::byte*>(data) + 8, size - 8);
    const auto prefix = signed_prefix(rest);
    const auto bytes = package::prefix_bytes(std::span(prefix).first(package::kHeaderBytes), file_bytes);
    if (bytes.ok() && *bytes == prefix.size()) {
        if (const auto manifest = package::parse(prefix, file_bytes)) {
            std::uint64_t end = manifest->data_offset;
            for (const auto& chunk : manifest->chunks) end += chunk.bytes;
            if (end != file_bytes) std::abort();
        }
    }
    // The same bytes as the content of a metadata group: what an honest seal of a hostile model would hold.
    package::Metadata metadata;
    static_cast<void>(package::parse_metadata(rest, metadata));
    return 0;
}
