// Whoever has the storage reads, changes, exchanges and brings back stored conversations.
#include <algorithm>
#include <array>
#include <functional>
#include <set>

#include "base/crypto.h"
#include "cli/attack/attack.h"
#include "cli/attack/stored_kv.h"

namespace flex::attack {
namespace {

constexpr std::size_t kPromptTokens = 150, kBlocks = kPromptTokens / kKvBlock;
constexpr std::size_t kPieceBytes = 64;

std::string bytes_of_tokens(const std::vector<std::uint32_t>& tokens, std::size_t from, std::size_t count) {
    std::string bytes;
    for (std::size_t i = from; i < from + count; ++i)
        for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(tokens[i] >> shift);
    return bytes;
}

/// Pieces of `known` that are not the same anywhere by chance.
std::size_t pieces_found(const std::string& known, const std::string& in) {
    std::size_t found = 0;
    for (std::size_t at = 0; at + kPieceBytes <= known.size(); at += 16 * kPieceBytes) {
        const std::string_view piece = std::string_view(known).substr(at, kPieceBytes);
        if (std::set<char>(piece.begin(), piece.end()).size() < kPieceBytes / 4) continue;
        found += in.find(piece) != std::string::npos;
    }
    return found;
}

/// The attacker knows what may have been said, and has the device itself compute what its KV cache would be.
Outcome read_store(Target& target) {
    const std::string api_key = make_api_key();
    const StoredKv victim(target, api_key), attacker(target);
    const std::vector<std::uint32_t> prompt = make_prompt(kPromptTokens);
    const std::string victims = victim.tell(prompt).filename();
    const std::string guess = attacker.tell(prompt).filename();
    const KvFiles files = read_kv_files(target);
    if (const std::size_t found = pieces_found(files.at(guess), files.at(victims)); found > 0)
        return breach(std::to_string(found) +
                      " pieces of the KV cache of a guessed conversation lie in another caller's file");
    std::size_t bytes = 0;
    for (const auto& [name, content] : files) {
        bytes += content.size();
        if (content.find(api_key) != std::string::npos) return breach("the caller's key lies in " + name);
        for (std::size_t at = 0; at + 4 <= prompt.size(); at += 4)
            if (content.find(bytes_of_tokens(prompt, at, 4)) != std::string::npos)
                return breach("tokens of the prompt lie in " + name);
    }
    return blocked("neither KV cache nor tokens of a known prompt in the " + std::to_string(bytes >> 10) +
                   " KiB stored");
}

struct Tampering {
    const char* what;
    std::size_t blocks_lost;                          ///< of kBlocks
    std::function<void(std::string& content)> change; ///< leaves nothing: the file goes
};

/// Changes a stored conversation that is nowhere else, goes on with it. Empty: as it should be.
Outcome tamper(Target& target, const Tampering& tampering) {
    const StoredKv caller(target);
    const std::vector<std::uint32_t> prompt = make_prompt(kPromptTokens);
    const Completion anew = StoredKv::ask_anew(target, prompt);
    const std::string file = caller.tell(prompt).filename();
    if (!target.drop_models()) return failed("the framework does not let go of the models it has");
    KvFiles files = read_kv_files(target);
    std::string& content = files.at(file);
    tampering.change(content);
    if (content.empty())
        std::filesystem::remove(target.data_folder() / file);
    else
        write_kv_files(target, {{file, content}});
    const KvCounts before = kv_counts(target);
    const Completion answer = caller.ask(prompt);
    const KvCounts after = kv_counts(target);
    const std::string said = std::string(tampering.what) + ": ";
    if (!answer.same_as(anew) || answer.logits != anew.logits)
        return breach(said + "the answer changed to \"" + answer.text + "\"");
    if (after.restored - before.restored > kBlocks - tampering.blocks_lost)
        return breach(said + "blocks that were not written there were used");
    if (after.restored - before.restored < kBlocks - tampering.blocks_lost)
        return failed(said + "blocks that were left alone were not used");
    if (after.recomputed - before.recomputed != tampering.blocks_lost)
        return failed(said + "what was computed again was not counted");
    return blocked("");
}

Outcome tamper_with_store(Target& target) {
    // An older writing of a conversation that begins alike, under a key that has gone since.
    std::string older;
    {
        const StoredKv caller(target);
        const std::string file = caller.tell(make_prompt(kPromptTokens)).filename();
        older = read_kv_files(target).at(file);
    }
    const std::size_t block = older.size() / kBlocks;
    const auto at = [block](std::string& content, std::size_t index) {
        return content.begin() + static_cast<std::ptrdiff_t>(index * block);
    };
    const Tampering all[] = {
        {"untouched", 0, [](std::string&) {}},
        {"one bit flipped", 1, [&](std::string& content) { content[block + block / 2] ^= 1; }},
        {"two blocks exchanged", 2,
         [&](std::string& content) { std::swap_ranges(at(content, 0), at(content, 1), at(content, 2)); }},
        {"a block put in another's place", 1,
         [&](std::string& content) { std::copy(at(content, 0), at(content, 1), at(content, 3)); }},
        {"an older block brought back", 1,
         [&](std::string& content) { content.replace(block, block, older, block, block); }},
        {"its end cut off", 1, [&](std::string& content) { content.resize(content.size() - 1); }},
        {"the file deleted", kBlocks, [](std::string& content) { content.clear(); }},
    };
    for (const Tampering& one : all)
        if (const Outcome outcome = tamper(target, one); outcome.verdict != Verdict::kBlocked) return outcome;
    return blocked(std::to_string(std::size(all) - 1) +
                   " ways: each block was computed again and counted, the answers are the same bits");
}

/// The storage keeps copies of everything, and gives them back after the conversation was deleted.
Outcome bring_back(Target& target) {
    const StoredKv caller(target);
    const std::vector<std::uint32_t> prompt = make_prompt(kPromptTokens);
    caller.tell(prompt);
    const KvFiles past = read_kv_files(target);
    if (caller.remove() != 200 || !caller.sessions().empty())
        return failed("the caller cannot delete its conversation");
    if (!target.stop_program()) return failed("the framework did not stop");
    write_kv_files(target, past);
    if (!target.start_program()) return failed("the framework did not start again");
    const std::size_t listed = caller.sessions().size();
    if (listed > 0) return breach("after a restart the device knows the deleted conversation");
    const KvCounts counts = kv_counts(target);
    const Completion answer = caller.ask(prompt);
    if (answer.cached_tokens > 0 || kv_counts(target).restored > 0)
        return breach("after a restart the device used blocks of a deleted conversation");
    if (counts.indexes_refused == 0) return failed("the older index was not refused");
    return blocked("the older index does not open any more");
}

} // namespace

std::vector<Attack> kv_attacks() {
    return {
        {"kv-read", 45, Kind::kHost,
         "searches stored conversations for the KV cache and the tokens of a known prompt", read_store},
        {"kv-tamper", 45, Kind::kHost,
         "changes, exchanges, replays, cuts off and deletes blocks of a stored conversation",
         tamper_with_store},
        {"kv-undelete", 46, Kind::kHost, "brings a deleted conversation back with older files", bring_back},
    };
}

} // namespace flex::attack
