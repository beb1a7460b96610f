// Two sealed copies of the demo model in a store, and a registry over a port with little memory.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fakes.h"
#include "package/seal.h"
#include "pipeline/registry.h"
#include "port/identity.h"
#include "temporary_folder.h"

namespace flex::pipeline {

/// Linux with a budget: what is over it is refused, as the normal world of a device may refuse at any time.
class SmallPort final : public test::ForwardingPort {
public:
    SmallPort(std::unique_ptr<port::Port> below, std::uint64_t budget)
        : ForwardingPort(std::move(below)), budget_(budget) {}

    void set_budget(std::uint64_t bytes) { budget_ = bytes; }
    [[nodiscard]] std::uint64_t used() { return memory_info().mapped_bytes; }

    [[nodiscard]] bool is_protected() const override { return true; }
    [[nodiscard]] const char* name() const override { return "small"; }
    Result<port::Block> allocate(std::size_t bytes) override {
        if (!fits(bytes)) return fail(ErrorCode::kOutOfMemory, "no memory left");
        return ForwardingPort::allocate(bytes);
    }
    Result<port::LoadedBlock> load(int file, std::uint64_t offset, std::size_t bytes) override {
        if (!fits(bytes)) return fail(ErrorCode::kOutOfMemory, "no memory left");
        return ForwardingPort::load(file, offset, bytes);
    }

    [[nodiscard]] unsigned refused() const { return refused_; }

private:
    bool fits(std::size_t bytes) {
        if (used() + bytes <= budget_) return true;
        ++refused_;
        return false;
    }

    std::atomic<std::uint64_t> budget_;
    std::atomic<unsigned> refused_ = 0;
};

inline constexpr std::uint64_t kMiB = 1u << 20;

class RegistryTest : public testing::Test {
protected:
    void SetUp() override { make_registry({.threads = 1, .context = 64}); }
    void make_registry(const RegistryOptions& options, std::vector<std::string> names = {"a", "b"}) {
        registry_.reset();
        auto native = port::make_native_port(folder_.path()).value();
        ASSERT_TRUE(port::provision_native(folder_.path(), home_.path()).ok());
        port_ = std::make_unique<SmallPort>(std::move(native), 100 * kMiB);
        for (const std::string& name : names) seal(name, 5);
        registry_.emplace(*port_, options);
    }
    void seal(const std::string& name, std::uint64_t version) {
        package::SealOptions options;
        options.source = FLEX_SOURCE_DIR "/models/demo/demo.gguf";
        options.name = name;
        options.version = version;
        options.target = path(name);
        options.device = crypto::x25519_public(port_->device_key(port::kPackageKeyLabel).value()).value();
        ASSERT_TRUE(package::seal(options, port::publisher_key(home_.path()).value()).ok());
    }
    [[nodiscard]] std::string path(const std::string& name) const {
        return folder_.path() + "/store/" + name + ".flex";
    }
    /// All of the model's weights, or the error that stopped them.
    static Status load(ServedModel& model) {
        return model.weights->acquire(model.weights->model().stages() - 1);
    }

    test::TemporaryFolder folder_, home_;
    std::unique_ptr<SmallPort> port_;
    std::optional<Registry> registry_;
};

} // namespace flex::pipeline
