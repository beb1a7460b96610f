#include "core/files.hpp"

#include "core/memory.hpp"
#include "core/rpc.hpp"

namespace flex::tos {

void Files::reset() {
    for (OpenFile& file : files_) file = {};
    for (u32 i = 0; i < 3; i++) files_[i].kind = OpenFile::Kind::Console;
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
