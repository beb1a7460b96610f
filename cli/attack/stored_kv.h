// Conversations in the store that the normal world carries (docs/kv-store.md), as their caller and as an
// attacker sees them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cli/attack/target.h"

namespace flex::attack {

inline constexpr std::uint32_t kKvBlock = 32; ///< tokens in a block

/// Random: an API key that counts as one, and what is said under it.
[[nodiscard]] std::string make_api_key();
[[nodiscard]] std::vector<std::uint32_t> make_prompt(std::size_t tokens);

/// One caller and what the device keeps of it. All functions throw platform::DeviceError where the device
/// says nothing of use.
class StoredKv {
public:
    explicit StoredKv(Target& target, std::string api_key = make_api_key());
    /// Deletes what the device keeps of this caller.
    ~StoredKv();
    StoredKv(const StoredKv&) = delete;
    StoredKv& operator=(const StoredKv&) = delete;

    /// Asks as this caller. The logits are in the answer, so equal ones are equal bits.
    [[nodiscard]] Completion ask(const std::vector<std::uint32_t>& prompt) const;
    /// The same of nobody, with nothing kept from before.
    [[nodiscard]] static Completion ask_anew(const Target& target, const std::vector<std::uint32_t>& prompt);

    /// Asks, and waits until all whole blocks of the conversation and the index that knows them are in the
    /// store. Returns the file of the blocks.
    std::filesystem::path tell(const std::vector<std::uint32_t>& prompt) const;

    struct Session {
        std::string id, state;
        std::uint64_t stored_tokens = 0;
    };
    [[nodiscard]] std::vector<Session> sessions() const;
    /// The status of DELETE /flexserve/sessions, or of one of them.
    [[nodiscard]] int remove(const std::string& id = {}) const;

private:
    Target& target_;
    const std::string api_key_;
};

/// Counts of /flexserve/status, stored_conversations.
struct KvCounts {
    std::uint64_t restored = 0;
    std::uint64_t recomputed = 0; ///< blocks, whatever the cause
    std::uint64_t indexes_refused = 0;
};
[[nodiscard]] KvCounts kv_counts(const Target& target);

/// All that the store holds of conversations, by file name.
using KvFiles = std::map<std::string, std::string>;
[[nodiscard]] KvFiles read_kv_files(const Target& target);
void write_kv_files(const Target& target, const KvFiles& files);

} // namespace flex::attack
