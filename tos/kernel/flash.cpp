#include "kernel/flash.hpp"

#include "arch/mmu.hpp"
#include "core/memory.hpp"
#include "kernel/core.hpp"

namespace flex::tos {

namespace {

/* Two 16-bit chips side by side: each command twice in a word, each chip's status in its half. */
constexpr u32 both(u32 command) { return command << 16 | command; }
constexpr u32 kReadArray = both(0xff), kClearStatus = both(0x50), kProgramBuffer = both(0xe8);
constexpr u32 kEraseSetup = both(0x20), kConfirm = both(0xd0);
constexpr u32 kReady = both(0x80), kErrors = both(0x3a); /* erase, program, voltage, lock */
constexpr u64 kWordsOfBuffer = 16;        /* 32 bytes a chip: what every part with a write buffer has */
constexpr u64 kTimeoutNs = 2'000'000'000; /* an erase takes up to a second on real parts */

volatile u32& word_at(u64 offset) { return *kernel_pointer<volatile u32>(BOARD_SECURE_FLASH_BASE + offset); }

bool wait_ready(u64 offset) {
    const u64 deadline = deadline_after(kTimeoutNs);
    u32 status = word_at(offset);
    while ((status & kReady) != kReady && now() < deadline) status = word_at(offset);
    const bool good = (status & kReady) == kReady && (status & kErrors) == 0;
    if (!good) word_at(offset) = kClearStatus;
    return good;
}

/* Buffered programming: command, number of words less one, the words, confirmation. */
bool program_buffer(u64 at, const u8* from, u64 words) {
    word_at(at) = kProgramBuffer;
    if (!wait_ready(at)) return false;
    word_at(at) = both(static_cast<u32>(words - 1));
    for (u64 i = 0; i < words; i++) {
        u32 value;
        copy_bytes(&value, from + 4 * i, 4);
        word_at(at + 4 * i) = value;
    }
    word_at(at) = kConfirm;
    return wait_ready(at);
}

class CfiStoreFlash final : public StoreFlash {
public:
    void read(u32 copy, u64 offset, void* to, u64 bytes) override {
        flash_read(base(copy) + offset, to, bytes);
    }

    bool erase(u32 copy) override {
        word_at(base(copy)) = kClearStatus;
        word_at(base(copy)) = kEraseSetup;
        word_at(base(copy)) = kConfirm;
        const bool good = wait_ready(base(copy));
        word_at(base(copy)) = kReadArray;
        return good;
    }

    bool program(u32 copy, u64 offset, const void* from, u64 bytes) override {
        bool good = true;
        for (u64 done = 0; done < bytes && good;) {
            const u64 words = min(kWordsOfBuffer, (bytes - done) / 4);
            good = program_buffer(base(copy) + offset + done, static_cast<const u8*>(from) + done, words);
            done += words * 4;
        }
        word_at(base(copy)) = kReadArray;
        return good;
    }

private:
    static u64 base(u32 copy) { return copy == 0 ? BOARD_FLASH_STORE_A_OFFSET : BOARD_FLASH_STORE_B_OFFSET; }
};

constinit CfiStoreFlash cfi_flash;

} // namespace

void flash_read(u64 offset, void* to, u64 bytes) {
    for (u64 done = 0; done < bytes; done += 4) {
        const u32 value = word_at(offset + done);
        copy_bytes(static_cast<u8*>(to) + done, &value, 4);
    }
}

StoreFlash& store_flash() { return cfi_flash; }

} // namespace flex::tos
