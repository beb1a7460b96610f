/*
 * File descriptors of the program, and the names it may use: /store/NAME (read-only) and /data/NAME.
 * Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_FILES_HPP
#define FLEX_TOS_CORE_FILES_HPP

#include "abi/rpc.h"
#include "core/types.hpp"

namespace flex::tos {

struct OpenFile {
    /* Opening: taken by a call that waits for the normal world; good for nothing yet. */
    enum class Kind : u8 { Free, Opening, Console, File, Folder, Socket, Listener, Stream };

    Kind kind = Kind::Free;
    u8 root = 0; /* File, Folder */
    bool writable = false, append = false;
    bool nonblocking = false;
    u32 handle = 0; /* File, Listener, Stream: the normal world's number */
    u64 offset = 0; /* File: next byte; Folder: next entry */
    u16 port = 0;   /* Socket, Listener */
    u64 peer = 0;   /* Stream: IPv4 << 16 | port, as the normal world says */
    i64 receive_timeout_ms = -1, send_timeout_ms = -1;
};

class Files {
public:
    static constexpr u32 kMax = 256;

    /* Empty but for 0, 1 and 2. */
    void reset();
    [[nodiscard]] OpenFile* get(u64 descriptor);
    /* The lowest free descriptor, or kEmfile. */
    [[nodiscard]] i64 add(const OpenFile& file);
    void close(u64 descriptor) { files_[descriptor] = {}; }

private:
    OpenFile files_[kMax];
};

struct FileName {
    u8 root = 0;
    bool folder = false; /* the root itself; name is empty */
    Span<const char> name;
};
/* kEnoent for everything outside the two roots or with a name the normal world would refuse. Points into
 * `path`. */
[[nodiscard]] Result<FileName> parse_path(Span<const char> path);

} // namespace flex::tos

#endif
