// The framework in this process, without protection, to compare the device with.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "cli/attack/api_client.h"

namespace flex::test {

class NativeServer {
public:
    /// Serves a GGUF as `name`, keeping its keys under `folder`. Throws platform::DeviceError.
    NativeServer(const std::filesystem::path& folder, const std::string& name, const std::filesystem::path& gguf);
    ~NativeServer();
    [[nodiscard]] attack::ApiClient api() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace flex::test
