// The framework on this machine, in this process, without protection: for `--native`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace flex::cli {

/// Serves from construction to destruction, on a free loopback port. Throws std::runtime_error.
class NativeServer {
public:
    /// `model`: the name of a package sealed with --native, or the path of a GGUF file; empty: all that are
    /// sealed. `context`: 0, or
    /// tokens.
    NativeServer(const std::string& model, unsigned context);
    ~NativeServer();
    [[nodiscard]] std::uint16_t port() const;
    [[nodiscard]] const std::string& ca_file() const;
    [[nodiscard]] const std::string& model() const; ///< its name for the API

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace flex::cli
