#include "kernel/flash.hpp"

#include "arch/mmu.hpp"
#include "core/memory.hpp"
#include "kernel/core.hpp"

namespace flex::tos {

namespace {

/* Two 16-bit chips side by side: each command twice in a word, each chip's status in its half. */
constexpr u32 both(u32 command) { return command << 16 | command; }
constexpr u32 kReadArray = both(0xff), kClearStatus = both(0x50), kProgramWord = both(0x40);
constexpr u32 kEraseSetup = both(0x20), kConfirm = both(0xd0);
constexpr u32 kReady = both(0x80), kErrors = both(0x3a); /* erase, program, voltage, lock */
constexpr u64 kTimeoutNs = 2'000'000'000;                 /* an erase takes up to a second on real parts */

volatile u32& word_at(u64 offset) { return *kernel_pointer<volatile u32>(BOARD_SECURE_FLASH_BASE + offset); }

bool wait_ready(u64 offset) {
    const u64 deadline = deadline_after(kTimeoutNs);
    u32 status = word_at(offset);
    while ((status & kReady) != kReady && now() < deadline) status = word_at(offset);
    const bool good = (status & kReady) == kReady && (status & kErrors) == 0;
    if (!good) word_at(offset) = kClearStatus;
    return good;
}

class CfiStoreFlash final : public StoreFlash {
public:
    void read(u32 copy, u64 offset, void* to, u64 bytes) override { flash_read(base(copy) + offset, to, bytes); }

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
        for (u64 done = 0; done < bytes && good; done += 4) {
            u32 value;
            copy_bytes(&value, static_cast<const u8*>(from) + done, 4);
            const u64 at = base(copy) + offset + done;
            word_at(at) = kProgramWord;
            word_at(at) = value;
            good = wait_ready(at);
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
