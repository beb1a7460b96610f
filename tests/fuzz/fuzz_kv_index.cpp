// The index of stored conversations and the records of their blocks: its clear text, as if a key had leaked
// or an earlier program had sealed something else, and the file as the normal world hands it out.
#include <algorithm>
#include <cstdlib>

#include "memory/kv_index.h"

using namespace flex;

namespace {

void check(const memory::KvIndex& index) {
    if (index.sessions.size() > memory::kMaxStoredSessions) std::abort();
    for (const auto& session : index.sessions) {
        if (session->tokens.size() != session->blocks.size() * engine::kKvBlockTokens ||
            session->tokens.size() > memory::kMaxStoredTokens)
            std::abort();
        // What is allocated and read at index * block_bytes must neither be nothing nor overflow.
        const std::uint64_t bytes = session->binding.layout.block_bytes();
        if (bytes == 0 || bytes > (std::uint64_t{1} << 40)) std::abort();
        for (const memory::StoredBlock& block : session->blocks)
            if (block.counter >= index.counter) std::abort();
        if (memory::block_associated_data(*session, 0, index.counter) ==
            memory::block_associated_data(*session, 1, index.counter))
            std::abort();
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
    if (const auto index = memory::parse_index(bytes)) {
        check(*index);
        // One content has one form, so nothing hides in it.
        if (!std::ranges::equal(memory::format_index(*index), bytes)) std::abort();
    }
    static const crypto::Secret32 device_key, secret; // all zero will do, as in the seeds
    if (const auto index = memory::open_index(bytes, device_key, secret)) check(*index);
    return 0;
}
