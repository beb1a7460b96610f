// Where a model's weights come from: a sealed package, or (natively only) a plain GGUF file.
#pragma once

#include <memory>
#include <string>

#include "memory/flex_buffer.h"
#include "package/package.h"

namespace flex::pipeline {

/// What a model is made from besides its weights.
struct SourceInfo {
    std::string name; ///< what clients call the model
    std::string kind; ///< for people: "sealed, chacha20-poly1305", "plain GGUF"
    std::uint64_t version = 0;
    std::uint64_t bytes = 0; ///< of weights and metadata when loaded
    /// No other package has it. All zero: what lies behind the name may change unnoticed (a plain file).
    package::PackageId id{};
};

/// fetch() and open() may run on two threads, each on one at a time; metadata() before both.
class WeightSource {
public:
    virtual ~WeightSource() = default;
    [[nodiscard]] virtual const SourceInfo& info() const = 0;
    /// The version that lies in the store now, as its file claims: a reason to open it, not to believe it.
    [[nodiscard]] virtual std::uint64_t claimed_version() const = 0;
    /// GGUF header and places of the tensors within their stages. Adds to `times`.
    virtual Result<package::Metadata> metadata(package::LoadTimes& times) = 0;
    /// What fetch() will take for a stage; after metadata().
    [[nodiscard]] virtual std::uint64_t stage_bytes(std::uint32_t stage) const = 0;
    /// A stage as it is stored, in fresh memory. Adds to `times`.
    virtual Result<memory::FlexBuffer> fetch(std::uint32_t stage, package::LoadTimes& times) = 0;
    /// Makes clear text of what fetch() gave, in place. Adds to `times`.
    virtual Status open(std::uint32_t stage, memory::FlexBuffer& buffer, package::LoadTimes& times) = 0;
};

/// Errors: see Package::open.
Result<std::unique_ptr<WeightSource>> open_package_source(port::Port& port, package::TrustStore& trust,
                                                          const std::string& name);

/// A plain GGUF file, for comparison with the sealed form. Refused (kUnsupported) where memory is protected:
/// the device runs nothing that no publisher signed. Errors: kNotFound, kCorrupt, kUnsupported, kIo.
/// `chat_form`: see package::Metadata.
Result<std::unique_ptr<WeightSource>> open_gguf_source(port::Port& port, const std::string& path,
                                                       const std::string& name,
                                                       std::vector<std::byte> chat_form = {});

} // namespace flex::pipeline
