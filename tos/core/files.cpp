#include "core/files.hpp"

#include "core/memory.hpp"
#include "core/rpc.hpp"

namespace flex::tos {

void Files::reset() {
    for (OpenFile& file : files_) file = {};
    for (u32 i = 0; i < 3; i++) files_[i].kind = OpenFile::Kind::Console;
    for (Ahead& ahead : ahead_) ahead.used = false;
}

OpenFile* Files::get(u64 descriptor) {
    if (descriptor >= kMax || files_[descriptor].kind == OpenFile::Kind::Free) return nullptr;
    return &files_[descriptor];
}

i64 Files::add(const OpenFile& file) {
    for (u32 i = 0; i < kMax; i++) {
        if (files_[i].kind != OpenFile::Kind::Free) continue;
        files_[i] = file;
        return i;
    }
    return kEmfile;
}

u32 Files::begin_ahead(OpenFile& stream) {
    if (stream.ahead != 0) return 0;
    for (u32 i = 0; i < kAheads; i++) {
        if (ahead_[i].used) continue;
        ahead_[i].used = true;
        ahead_[i].begin = ahead_[i].end = 0;
        stream.ahead = static_cast<u8>(i + 1);
        stream.asking_ahead = true;
        return kAheadBytes;
    }
    return 0;
}

void Files::end_ahead(OpenFile& stream, Span<const u8> bytes) {
    stream.asking_ahead = false;
    if (bytes.size == 0) return free_ahead(stream);
    Ahead& ahead = ahead_[stream.ahead - 1];
    ahead.end = static_cast<u32>(min<u64>(bytes.size, kAheadBytes));
    copy_bytes(ahead.bytes, bytes.data, ahead.end);
}

Span<const u8> Files::ahead(const OpenFile& stream) const {
    if (stream.ahead == 0) return {};
    const Ahead& ahead = ahead_[stream.ahead - 1];
    return {ahead.bytes + ahead.begin, ahead.end - ahead.begin};
}

void Files::take_ahead(OpenFile& stream, u64 bytes) {
    Ahead& ahead = ahead_[stream.ahead - 1];
    ahead.begin += static_cast<u32>(bytes);
    if (ahead.begin == ahead.end) free_ahead(stream);
}

void Files::free_ahead(OpenFile& stream) {
    if (stream.ahead != 0) ahead_[stream.ahead - 1].used = false;
    stream.ahead = 0;
}

Result<FileName> parse_path(Span<const char> path) {
    const struct {
        const char* text;
        u64 length;
        u8 root;
    } roots[] = {{"/store", 6, FLEX_ROOT_STORE}, {"/data", 5, FLEX_ROOT_DATA}};
    for (const auto& root : roots) {
        if (path.size < root.length || !same_bytes(path.data, root.text, root.length)) continue;
        FileName result;
        result.root = root.root;
        if (path.size == root.length || (path.size == root.length + 1 && path[root.length] == '/')) {
            result.folder = true;
            return result;
        }
        if (path[root.length] != '/') continue;
        result.name = {path.data + root.length + 1, path.size - root.length - 1};
        if (!name_is_valid(result.name)) return kEnoent;
        return result;
    }
    return kEnoent;
}

} // namespace flex::tos
