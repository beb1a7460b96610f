/*
 * The rollback-proof store: one record in two alternating copies in secure flash, each
 *
 *   magic, sequence, boot counter, length, HMAC-SHA256 over these and the data, data[length]
 *
 * A write goes to the copy that is not the newest, so a power cut leaves the old or the new record. The flash
 * cannot be reached by the normal world; the HMAC finds a torn write and damage.
 *
 * Writing is slow on real parts, so it is done in steps: begin(), then step() until it says so. Not
 * thread-safe.
 */
#ifndef FLEX_TOS_CORE_SECURE_STORE_HPP
#define FLEX_TOS_CORE_SECURE_STORE_HPP

#include "abi/syscall.h"
#include "core/sha256.hpp"
#include "core/types.hpp"

namespace flex::tos {

/* Two erase sectors. Offsets within a copy and lengths are multiples of 4; offsets to program, of
 * SecureStore::kStepBytes. */
class StoreFlash {
public:
    virtual void read(u32 copy, u64 offset, void* to, u64 bytes) = 0;
    virtual bool erase(u32 copy) = 0;
    virtual bool program(u32 copy, u64 offset, const void* from, u64 bytes) = 0;

protected:
    ~StoreFlash() = default;
};

class SecureStore {
public:
    static constexpr u64 kStepBytes = 512;

    /* Reads both copies; keeps the newest good one in memory. */
    void load(StoreFlash& flash, Bytes key);

    [[nodiscard]] Bytes data() const { return {record_.data, record_.header.length}; }
    [[nodiscard]] u64 boot_counter() const { return record_.header.boot_counter; }

    [[nodiscard]] bool busy() const { return writing_; }
    /* bytes <= FLEX_SECURE_STORE_BYTES; the data is copied. */
    void begin(Bytes data, u64 boot_counter);
    /* Gives up a write under way: the old record stays. */
    void cancel() { writing_ = false; }
    enum class Progress { More, Written, Failed };
    [[nodiscard]] Progress step();

private:
    struct Header {
        u64 magic = 0, sequence = 0, boot_counter = 0, length = 0;
    };
    struct Record {
        Header header;
        u8 tag[32];
        u8 data[FLEX_SECURE_STORE_BYTES];
    };
    static_assert(sizeof(Record) == 64 + FLEX_SECURE_STORE_BYTES, "the layout in flash");
    [[nodiscard]] Digest tag_of(const Record& record) const;
    [[nodiscard]] bool read(u32 copy, Record& record);

    StoreFlash* flash_ = nullptr;
    u8 key_[32] = {};
    Record record_;  /* the newest good one */
    Record pending_; /* being written; also scratch of load() */
    u32 newest_ = 0;
    u64 written_ = 0, to_write_ = 0; /* bytes of pending_ in flash, and in all */
    bool erased_ = false, writing_ = false;
};

} // namespace flex::tos

#endif
