// GGUF -> sealed package, on the publisher's machine.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/crypto.h"
#include "base/result.h"
#include "package/manifest.h"

namespace flex::package {

struct SealOptions {
    std::string source; ///< path of the GGUF file
    std::string target; ///< path of the package; replaced only when the new one is complete and on disk
    std::string name;   ///< see Manifest::name; must be the target's file name without ".flex"
    std::uint64_t version = 1; ///< devices refuse a version lower than one they have seen
    crypto::Cipher cipher = crypto::Cipher::kChaCha20Poly1305;
    crypto::Public32 device{}; ///< the only device that will open it
    std::uint32_t chunk_bytes = 1u << 20;
    std::vector<std::byte> chat_form; ///< see chat_compiler.h; empty: the model does not chat
    std::function<void(std::uint64_t done, std::uint64_t total)> progress; ///< may be empty
};

struct SealResult {
    Manifest manifest;
    std::string model_name; ///< from the GGUF, may be empty
    std::size_t tensors = 0;
    std::string conversions; ///< for people: which tensors became Q8_0; empty: none
};

/// Checks the model (shape, every tensor, tokenizer) before it writes a byte.
/// Errors: kNotFound, kCorrupt, kUnsupported (the model), kInvalidArgument (options), kIo (disk full, …).
Result<SealResult> seal(const SealOptions& options, const crypto::Secret32& publisher_key);

} // namespace flex::package
