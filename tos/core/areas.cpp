#include "core/areas.hpp"

namespace flex::tos {

bool user_bytes(u64 address, u64 bytes) {
    return bytes == 0 || (address >= kUserLow && address < kUserHigh && bytes <= kUserHigh - address);
}

bool user_pages(u64 address, u64 bytes, u64& end) {
    if (bytes == 0 || !is_aligned(address, kPageBytes) || !user_bytes(address, bytes)) return false;
    end = align_up(address + bytes, kPageBytes);
    return true;
}

bool protection_allowed(u64 protection) {
    if ((protection & ~u64{kProtectRead | kProtectWrite | kProtectExecute}) != 0) return false;
    return (protection & kProtectWrite) == 0 || (protection & kProtectExecute) == 0;
}

u32 Areas::lower(u64 address) const {
    u32 low = 0, high = count_;
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (areas_[middle].end <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const Area* Areas::find(u64 address) const {
    const u32 i = lower(address);
    return i < count_ && areas_[i].begin <= address ? &areas_[i] : nullptr;
}

bool Areas::covered(u64 begin, u64 end) const {
    for (u32 i = lower(begin); begin < end; i++) {
        if (i >= count_ || areas_[i].begin > begin) return false;
        begin = areas_[i].end;
    }
    return true;
}

bool Areas::any(u64 begin, u64 end, Backing backing) const {
    for (u32 i = lower(begin); i < count_ && areas_[i].begin < end; i++) {
        if (areas_[i].backing == backing) return true;
    }
    return false;
}

Result<u64> Areas::place(u64 bytes, u64 alignment, u64 low, u64 high) const {
    u64 at = align_up(low, alignment);
    for (u32 i = lower(at);; i++) {
        if (at >= high || bytes > high - at) return kEnomem;
        if (i >= count_ || areas_[i].begin >= at + bytes) return at;
        at = align_up(areas_[i].end, alignment);
    }
}

Error Areas::insert(const Area& area) {
    const u32 at = lower(area.begin);
    if (at < count_ && areas_[at].begin < area.end) return kEexist;
    if (count_ == kMax) return kEnomem;
    for (u32 i = count_; i > at; i--) areas_[i] = areas_[i - 1];
    areas_[at] = area;
    count_++;
    merge(area.begin, area.end);
    return kOk;
}

void Areas::erase(u32 at) {
    count_--;
    for (u32 i = at; i < count_; i++) areas_[i] = areas_[i + 1];
}

/* Makes `begin` and `end` borders between areas. Checks the room first: both splits or none. */
Error Areas::isolate(u64 begin, u64 end) {
    if (count_ + 2 > kMax) return kEnomem;
    for (const u64 border : {begin, end}) {
        const u32 i = lower(border);
        if (i >= count_ || areas_[i].begin >= border) continue;
        for (u32 k = count_; k > i; k--) areas_[k] = areas_[k - 1];
        count_++;
        areas_[i].end = border;
        areas_[i + 1].image_offset += border - areas_[i + 1].begin;
        areas_[i + 1].begin = border;
    }
    return kOk;
}

void Areas::merge(u64 begin, u64 end) {
    u32 i = lower(begin);
    if (i > 0) i--;
    while (i + 1 < count_ && areas_[i].begin <= end) {
        Area& a = areas_[i];
        const Area& b = areas_[i + 1];
        const bool plain = a.backing == Backing::Zero || a.backing == Backing::Flex;
        if (a.end == b.begin && a.protection == b.protection && a.backing == b.backing && plain) {
            a.end = b.end;
            erase(i + 1);
        } else {
            i++;
        }
    }
}

Error Areas::remove(u64 begin, u64 end) {
    if (const Error error = isolate(begin, end); error != kOk) return error;
    u32 to = lower(begin);
    u32 from = to;
    while (from < count_ && areas_[from].begin < end) from++;
    const u32 gone = from - to;
    for (; from < count_; from++, to++) areas_[to] = areas_[from];
    count_ -= gone;
    return kOk;
}

Error Areas::protect(u64 begin, u64 end, u8 protection) {
    if (const Error error = isolate(begin, end); error != kOk) return error;
    for (u32 i = lower(begin); i < count_ && areas_[i].begin < end; i++) areas_[i].protection = protection;
    merge(begin, end);
    return kOk;
}

Error Areas::set_backing(u64 begin, u64 end, Backing backing) {
    if (const Error error = isolate(begin, end); error != kOk) return error;
    for (u32 i = lower(begin); i < count_ && areas_[i].begin < end; i++) areas_[i].backing = backing;
    merge(begin, end);
    return kOk;
}

} // namespace flex::tos
