// A registry that stores its conversations, over a store that a test can tamper with.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <thread>

#include "api/generator.h"
#include "registry_fixture.h"

namespace flex::pipeline {

inline constexpr std::size_t kBlockTokens = engine::kKvBlockTokens;

inline std::vector<TokenId> operator+(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

/// What a request came to: bits, not only tokens.
struct Reply {
    std::vector<TokenId> tokens;
    std::vector<float> logits; ///< after the prompt
    std::size_t cached = 0;
};

class KvStoreTest : public RegistryTest {
protected:
    using Blocks = std::vector<std::vector<char>>;

    void SetUp() override { start(); }

    [[nodiscard]] static RegistryOptions options() {
        return {.threads = 1,
                .context = 384,
                .stored_kv_bytes = 64 * kMiB,
                .save_after = std::chrono::milliseconds(0),
                .restore_patience = std::chrono::hours(1)};
    }
    void start(const RegistryOptions& with = options()) {
        make_registry(with, {"a"});
        generator_.emplace(api::GeneratorOptions{.max_running = 4, .max_waiting = 4});
    }
    /// The framework ends and starts again; what it had in memory is gone.
    void restart(const RegistryOptions& with = options()) {
        generator_.reset();
        registry_.emplace(*port_, with);
        generator_.emplace(api::GeneratorOptions{.max_running = 4, .max_waiting = 4});
    }
    void TearDown() override { generator_.reset(); }

    [[nodiscard]] static std::vector<TokenId> text(std::size_t length, TokenId salt = 0) {
        std::vector<TokenId> tokens;
        for (std::size_t i = 0; i < length; ++i)
            tokens.push_back(static_cast<TokenId>(100 + (i * i + 3 * i + salt) % 300));
        return tokens;
    }
    Reply ask(const std::vector<TokenId>& prompt, const std::string& caller = "me", std::uint32_t most = 6) {
        api::GenerationOptions options;
        options.max_tokens = most;
        options.keep_logits = true;
        options.sampler.temperature = 0;
        options.scope = caller.empty() ? "" : "scope of " + caller;
        options.owner = caller;
        const auto generation = std::make_shared<api::Generation>(registry_->get("a").value(), prompt,
                                                                  options, std::chrono::steady_clock::now());
        EXPECT_TRUE(generator_->submit(generation).ok());
        while (!generation->wait(std::chrono::seconds(1)).done) {
        }
        const auto result = generation->result();
        if (!result) ADD_FAILURE() << result.error().message;
        return result ? Reply{result->tokens, result->logits, result->cached_tokens} : Reply{};
    }
    /// The same without anybody's past.
    Reply ask_anew(const std::vector<TokenId>& prompt) { return ask(prompt, ""); }
    static void expect_same(const Reply& is, const Reply& should_be) {
        EXPECT_EQ(is.tokens, should_be.tokens);
        EXPECT_EQ(is.logits, should_be.logits);
    }

    [[nodiscard]] memory::KvStoreStatus store() const { return registry_->store_status().value(); }
    [[nodiscard]] std::uint64_t recomputed(memory::KvLoss loss) const {
        return store().recomputed[static_cast<std::size_t>(loss)];
    }
    [[nodiscard]] std::uint64_t recomputed() const {
        std::uint64_t sum = 0;
        for (const std::uint64_t count : store().recomputed) sum += count;
        return sum;
    }
    static void wait_until(const std::function<bool()>& condition) {
        while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    /// `caller` has said `prompt`, and all whole blocks of it are in the store and nowhere else. Returns the
    /// file they are in.
    std::filesystem::path tell(const std::vector<TokenId>& prompt, const std::string& caller = "me") {
        const auto before = registry_->sessions(caller);
        const auto is_new = [&](const SessionInfo& session) {
            return std::ranges::none_of(before, [&](const SessionInfo& other) {
                return other.id == session.id && other.stored_tokens == session.stored_tokens;
            });
        };
        // The last token of an answer is not computed any more.
        const std::size_t blocks = (prompt.size() + ask(prompt, caller, 1).tokens.size() - 1) / kBlockTokens;
        std::filesystem::path file;
        wait_until([&] {
            for (const SessionInfo& session : registry_->sessions(caller)) {
                if (session.stored_tokens == blocks * kBlockTokens && is_new(session) &&
                    index_is_newer_than_files())
                    file = data() / ("kv-" + crypto::hex(session.id) + ".blocks");
            }
            return !file.empty();
        });
        forget_memory();
        return file;
    }
    void forget_memory() { registry_->give_back(UINT64_MAX); }

    [[nodiscard]] std::filesystem::path data() const { return folder_.path() + "/data"; }
    [[nodiscard]] std::vector<std::filesystem::path> files() const {
        std::vector<std::filesystem::path> all;
        for (const auto& entry : std::filesystem::directory_iterator(data()))
            if (entry.path().extension() == ".blocks") all.push_back(entry.path());
        std::ranges::sort(all);
        return all;
    }
    [[nodiscard]] bool index_is_newer_than_files() const {
        std::error_code missing;
        const auto index = std::filesystem::last_write_time(data() / "kv-index", missing);
        return !missing && std::ranges::all_of(files(), [&](const auto& file) {
            return std::filesystem::last_write_time(file, missing) <= index;
        });
    }
    [[nodiscard]] static std::vector<char> read(const std::filesystem::path& file) {
        std::ifstream in(file, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }
    static void write(const std::filesystem::path& file, const std::vector<char>& content) {
        std::ofstream(file, std::ios::binary)
            .write(content.data(), static_cast<std::streamsize>(content.size()));
    }
    [[nodiscard]] Blocks blocks_of(const std::filesystem::path& file) {
        const std::vector<char> content = read(file);
        const auto size =
            static_cast<std::ptrdiff_t>(registry_->get("a").value()->kv->layout().block_bytes());
        Blocks blocks;
        for (auto at = content.begin(); content.end() - at >= size; at += size)
            blocks.emplace_back(at, at + size);
        return blocks;
    }
    static void write(const std::filesystem::path& file, const Blocks& blocks) {
        std::vector<char> content;
        for (const auto& block : blocks) content.insert(content.end(), block.begin(), block.end());
        write(file, content);
    }

    std::optional<api::Generator> generator_;
};

} // namespace flex::pipeline
