#include "package/package.h"

#include <chrono>

namespace flex::package {
namespace {

constexpr std::size_t kMetadataHeadBytes = 32;
constexpr std::size_t kMaxTensors = 65536;
constexpr std::size_t kPlaceFixedBytes = 24;

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

void put(std::vector<std::byte>& to, std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

std::uint64_t get(crypto::Bytes from, std::size_t at, std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = bytes; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(from[at + i]);
    return value;
}

Error with_name(const std::string& file, const Error& error) {
    return fail(error.code, file + ": " + error.message);
}

Result<Manifest> read_manifest(const port::File& file) {
    FLEX_ASSIGN(const std::uint64_t size, file.size());
    std::array<std::byte, kHeaderBytes> header{};
    if (size < header.size()) return fail(ErrorCode::kCorrupt, "not a FlexServe package");
    FLEX_TRY(file.read(0, header));
    FLEX_ASSIGN(const std::uint64_t bytes, prefix_bytes(header, size));
    // Read once, then only the copy counts: the file can change under our feet.
    std::vector<std::byte> prefix(bytes);
    FLEX_TRY(file.read(0, prefix));
    return parse(prefix, size);
}

Result<Manifest> check(port::Port& port, TrustStore& trust, const port::File& file, const std::string& name,
                       crypto::Secret32& content_key) {
    FLEX_ASSIGN(Manifest manifest, read_manifest(file));
    if (manifest.name != name) {
        return fail(ErrorCode::kAuthentication,
                    "this is the package of \"" + manifest.name + "\" under another name");
    }
    FLEX_ASSIGN(const auto device_key, port.device_key(port::kPackageKeyLabel));
    FLEX_ASSIGN(const auto device_public, crypto::x25519_public(device_key));
    if (manifest.device != device_public) {
        return fail(ErrorCode::kAuthentication,
                    "sealed for another device; seal the model again for this one");
    }
    FLEX_ASSIGN(content_key, unwrap_key(manifest, device_key));
    FLEX_TRY(trust.admit(manifest));
    return manifest;
}

} // namespace

std::vector<std::byte> format_metadata(crypto::Bytes header, std::uint64_t source_bytes,
                                       crypto::Bytes chat_form, std::span<const TensorPlace> places) {
    std::vector<std::byte> out;
    put(out, header.size(), 8);
    put(out, source_bytes, 8);
    put(out, places.size(), 4);
    put(out, chat_form.size(), 4);
    put(out, 0, 8);
    out.insert(out.end(), header.begin(), header.end());
    out.insert(out.end(), chat_form.begin(), chat_form.end());
    for (const TensorPlace& place : places) {
        put(out, place.name.size(), 4);
        put(out, place.stage, 4);
        put(out, place.offset, 8);
        put(out, place.bytes, 8);
        for (const char c : place.name) out.push_back(static_cast<std::byte>(c));
    }
    return out;
}

Status parse_metadata(crypto::Bytes content, Metadata& out) {
    const Error damaged = fail(ErrorCode::kCorrupt, "the package's metadata is inconsistent; seal it again");
    if (content.size() < kMetadataHeadBytes) return damaged;
    const std::uint64_t header_bytes = get(content, 0, 8);
    out.source_bytes = get(content, 8, 8);
    const std::uint64_t count = get(content, 16, 4);
    if (header_bytes > content.size() - kMetadataHeadBytes || count > kMaxTensors) return damaged;
    out.header = content.subspan(kMetadataHeadBytes, header_bytes);
    crypto::Bytes rest = content.subspan(kMetadataHeadBytes + header_bytes);
    const std::uint64_t form_bytes = get(content, 20, 4);
    if (form_bytes > rest.size()) return damaged;
    out.chat_form = rest.first(form_bytes);
    rest = rest.subspan(form_bytes);
    for (std::uint64_t i = 0; i < count; ++i) {
        if (rest.size() < kPlaceFixedBytes) return damaged;
        const std::uint64_t name_bytes = get(rest, 0, 4);
        if (name_bytes > rest.size() - kPlaceFixedBytes) return damaged;
        TensorPlace place;
        place.stage = static_cast<std::uint32_t>(get(rest, 4, 4));
        place.offset = get(rest, 8, 8);
        place.bytes = get(rest, 16, 8);
        place.name.assign(reinterpret_cast<const char*>(rest.data()) + kPlaceFixedBytes, name_bytes);
        out.places.push_back(std::move(place));
        rest = rest.subspan(kPlaceFixedBytes + name_bytes);
    }
    return {};
}

Result<std::unique_ptr<Package>> Package::open(port::Port& port, TrustStore& trust, const std::string& name) {
    const std::string shown = name + ".flex";
    if (!is_valid_name(name)) return fail(ErrorCode::kNotFound, "\"" + name + "\" is not a model's name");
    auto file = port::File::open(port.store_folder() + "/" + shown);
    if (!file) {
        if (file.error().code != ErrorCode::kNotFound) return with_name(shown, file.error());
        return fail(ErrorCode::kNotFound, "there is no model \"" + name + "\" (no " + shown +
                                              " in the store); make one with: flexserve seal MODEL.gguf -o " +
                                              shown);
    }
    crypto::Secret32 content_key;
    auto manifest = check(port, trust, *file, name, content_key);
    if (!manifest) return with_name(shown, manifest.error());
    FLEX_ASSIGN(auto aead, crypto::Aead::create(manifest->cipher, content_key));
    return std::unique_ptr<Package>(
        new Package(port, std::move(*file), std::move(*manifest), std::move(aead)));
}

Result<memory::FlexBuffer> Package::fetch(std::uint32_t index, LoadTimes& times) {
    if (index >= manifest_.groups.size()) return fail(ErrorCode::kInternal, "no such group in the package");
    const Group& group = manifest_.groups[index];
    auto loaded =
        port_.load(file_.get(), manifest_.chunk_offset(group.first_chunk), manifest_.group_bytes(group));
    if (!loaded) return with_name(manifest_.name + ".flex", loaded.error());
    times.allocate_ns += loaded->allocate_ns;
    times.load_ns += loaded->load_ns;
    return memory::FlexBuffer(port_, loaded->block);
}

Status Package::decrypt(std::uint32_t index, memory::FlexBuffer& buffer, LoadTimes& times) {
    const Group& group = manifest_.groups[index];
    const std::uint64_t begin = now_ns();
    std::span<std::byte> bytes = buffer.bytes();
    for (std::uint32_t i = group.first_chunk; i < group.first_chunk + group.chunk_count; ++i) {
        const Chunk& chunk = manifest_.chunks[i];
        const auto piece = bytes.first(chunk.bytes);
        if (!aead_.open(chunk_nonce(i), chunk_associated_data(manifest_, i), piece, piece, chunk.tag)) {
            return fail(ErrorCode::kAuthentication,
                        manifest_.name + ".flex: chunk " + std::to_string(i) + " of " +
                            std::to_string(manifest_.chunks.size()) +
                            " was changed or is out of place; copy the package again");
        }
        bytes = bytes.subspan(chunk.bytes);
    }
    times.decrypt_ns += now_ns() - begin;
    return {};
}

Result<memory::FlexBuffer> Package::load(std::uint32_t index, LoadTimes& times) {
    FLEX_ASSIGN(auto buffer, fetch(index, times));
    FLEX_TRY(decrypt(index, buffer, times));
    return buffer;
}

Result<Metadata> Package::load_metadata(LoadTimes& times) {
    Metadata metadata;
    FLEX_ASSIGN(metadata.buffer, load(0, times));
    auto parsed = parse_metadata(metadata.buffer.bytes(), metadata);
    if (!parsed) return with_name(manifest_.name + ".flex", parsed.error());
    return metadata;
}

std::uint64_t version_of(const std::string& path) {
    auto file = port::File::open(path);
    // magic, format and sizes: kHeaderBytes; then the package id; then the version.
    std::array<std::byte, kHeaderBytes + sizeof(PackageId) + 8> head;
    if (!file || !file->read(0, head) || !prefix_bytes(head, UINT64_MAX)) return 0;
    std::uint64_t version = 0;
    for (std::size_t i = 8; i-- > 0;)
        version = version << 8 | std::to_integer<std::uint64_t>(head[kHeaderBytes + 16 + i]);
    return version;
}

} // namespace flex::package
