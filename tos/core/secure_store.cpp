#include "core/secure_store.hpp"

#include "core/memory.hpp"

namespace flex::tos {

namespace {
constexpr u64 kMagic = 0x31'45'52'4f'54'53'58'46; /* "FXSTORE1" */
}

Digest SecureStore::tag_of(const Record& record) const {
    HmacSha256 hmac({key_, sizeof key_});
    hmac.add(&record.header, sizeof record.header);
    hmac.add(record.data, record.header.length);
    return hmac.finish();
}

bool SecureStore::read(u32 copy, Record& record) {
    flash_->read(copy, 0, &record, sizeof record);
    if (record.header.magic != kMagic || record.header.length > FLEX_SECURE_STORE_BYTES) return false;
    return same_secret(tag_of(record).bytes, record.tag, sizeof record.tag);
}

void SecureStore::load(StoreFlash& flash, Bytes key) {
    flash_ = &flash;
    copy_bytes(key_, key.data, min<u64>(key.size, sizeof key_));
    record_.header = {};
    newest_ = 1;
    for (u32 copy = 0; copy < 2; copy++) {
        if (!read(copy, pending_) || pending_.header.sequence <= record_.header.sequence) continue;
        record_ = pending_;
        newest_ = copy;
    }
}

void SecureStore::begin(Bytes data, u64 boot_counter) {
    fill_bytes(&pending_, 0, sizeof pending_);
    pending_.header = {kMagic, record_.header.sequence + 1, boot_counter, data.size};
    copy_bytes(pending_.data, data.data, data.size);
    copy_bytes(pending_.tag, tag_of(pending_).bytes, sizeof pending_.tag);
    written_ = 0;
    to_write_ = align_up(offsetof(Record, data) + data.size, 4);
    erased_ = false;
    writing_ = true;
}

SecureStore::Progress SecureStore::step() {
    const u32 copy = 1 - newest_;
    bool good = true;
    if (!erased_) {
        good = flash_->erase(copy);
        erased_ = true;
    } else {
        const u64 part = min(kStepBytes, to_write_ - written_);
        good = flash_->program(copy, written_, reinterpret_cast<const u8*>(&pending_) + written_, part);
        written_ += part;
    }
    if (good && written_ < to_write_) return Progress::More;
    writing_ = false;
    if (!good) return Progress::Failed;
    record_ = pending_;
    newest_ = copy;
    return Progress::Written;
}

} // namespace flex::tos
