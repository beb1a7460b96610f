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
    u64 quiet_until = 0;         /* Stream: nothing was there to be read a moment ago; ticks */
    bool asking_ahead = false;   /* Stream: a call is out that may bring more than was asked for */
    u8 ahead = 0;                /* Stream: which buffer holds that, 0: none */
};

class Files {
public:
    static constexpr u32 kMax = 256;

    /* Empty but for 0, 1 and 2. */
    void reset();
    [[nodiscard]] OpenFile* get(u64 descriptor);
    /* The lowest free descriptor, or kEmfile. */
    [[nodiscard]] i64 add(const OpenFile& file);
    void close(u64 descriptor) {
        free_ahead(files_[descriptor]);
        files_[descriptor] = {};
    }

    /*
     * What a stream brought beyond what its program had asked for. A TLS record is read in two steps and a request is
     * two records; each step would be a way to the normal world and back.
     */
    static constexpr u32 kAheadBytes = 4096;
    /* How much a call may ask for beyond its own needs; end_ahead() must follow where it is not 0. */
    [[nodiscard]] u32 begin_ahead(OpenFile& stream);
    /* `bytes`: at most what begin_ahead() said. May lie in memory that changes under the reader. */
    void end_ahead(OpenFile& stream, Span<const u8> bytes);
    [[nodiscard]] Span<const u8> ahead(const OpenFile& stream) const;
    void take_ahead(OpenFile& stream, u64 bytes);

private:
    struct Ahead {
        bool used;
        u32 begin, end;
        u8 bytes[kAheadBytes];
    };
    static constexpr u32 kAheads = 32; /* streams at once; the others do without */

    void free_ahead(OpenFile& stream);

    OpenFile files_[kMax];
    Ahead ahead_[kAheads];
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
