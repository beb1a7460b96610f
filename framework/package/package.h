// A sealed model as its device sees it: open, check, load groups in clear text into Flex-Mem.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory/flex_buffer.h"
#include "package/manifest.h"
#include "package/trust.h"
#include "port/files.h"
#include "port/port.h"

namespace flex::package {

/// Where the time of loading went, nanoseconds of wall time.
struct LoadTimes {
    std::uint64_t allocate_ns = 0;
    std::uint64_t load_ns = 0;
    std::uint64_t decrypt_ns = 0;
    LoadTimes& operator+=(const LoadTimes& other) {
        allocate_ns += other.allocate_ns;
        load_ns += other.load_ns;
        decrypt_ns += other.decrypt_ns;
        return *this;
    }
};

/// Where one tensor lies in the clear text of its stage's group.
struct TensorPlace {
    std::string name;
    std::uint32_t stage = 0;
    std::uint64_t offset = 0; ///< in the group; a multiple of kTensorAlignment
    std::uint64_t bytes = 0;
};

/// The content of the metadata group.
struct Metadata {
    memory::FlexBuffer buffer;              ///< holds the next two
    std::span<const std::byte> header{};    ///< the GGUF header, up to its tensor data
    std::span<const std::byte> chat_form{}; ///< tokenizer::ChatForm; empty: no chat
    std::uint64_t source_bytes = 0;         ///< size of the GGUF file it came from
    std::vector<TensorPlace> places;
};

/// Serialised tensor table + header + chat form -> content of the metadata group, and back
/// (docs/package-format.md).
std::vector<std::byte> format_metadata(crypto::Bytes header, std::uint64_t source_bytes,
                                       crypto::Bytes chat_form, std::span<const TensorPlace> places);
/// Views into `content`. Error: kCorrupt.
Status parse_metadata(crypto::Bytes content, Metadata& out);

/// Immutable after open(). fetch() and decrypt() may run on two threads, each on one at a time.
class Package {
public:
    /// Opens FOLDER/NAME.flex, checks everything that can be checked without the data, remembers the version.
    /// Errors, all with the file's name: kNotFound, kCorrupt, kUnsupported, kAuthentication, kIo.
    static Result<std::unique_ptr<Package>> open(port::Port& port, TrustStore& trust,
                                                 const std::string& name);

    [[nodiscard]] const Manifest& manifest() const { return manifest_; }

    /// The group's ciphertext in fresh Flex-Mem, where it cannot change any more. Adds to `times`.
    /// Errors: kOutOfMemory, kIo.
    Result<memory::FlexBuffer> fetch(std::uint32_t group, LoadTimes& times);
    /// Turns what fetch() brought into clear text where it lies, every chunk authenticated. Adds to `times`.
    /// Error: kAuthentication (says which chunk; the chunk is wiped).
    Status decrypt(std::uint32_t group, memory::FlexBuffer& buffer, LoadTimes& times);
    /// Both.
    Result<memory::FlexBuffer> load(std::uint32_t group, LoadTimes& times);
    Result<Metadata> load_metadata(LoadTimes& times);

private:
    Package(port::Port& port, port::File file, Manifest manifest, crypto::Aead aead)
        : port_(port), file_(std::move(file)), manifest_(std::move(manifest)), aead_(std::move(aead)) {}

    port::Port& port_;
    port::File file_;
    Manifest manifest_;
    crypto::Aead aead_;
};

/// The version that a file claims to have, without checking anything but the format; 0 when there is none.
std::uint64_t version_of(const std::string& path);

} // namespace flex::package
