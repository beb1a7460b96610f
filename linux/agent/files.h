// The two file trees of abi/rpc.h: a read-only store of packages and a writable data folder.
#ifndef FLEX_LINUX_AGENT_FILES_H
#define FLEX_LINUX_AGENT_FILES_H

#include "linux/agent/handles.h"
#include "linux/agent/request.h"

#include <optional>
#include <string>
#include <string_view>

namespace flex::agent {

// A name as the ABI allows it: 1..FLEX_RPC_NAME_MAX bytes, no '/', no NUL, no leading '.'.
[[nodiscard]] std::optional<std::string> checked_name(std::string_view text);

// Serves the file RPCs. Thread-safe. Errors are Linux' own numbers, so that a full disk arrives as a full
// disk.
class Files {
public:
    // Throws std::system_error when a folder cannot be opened.
    Files(HandleTable& handles, const std::string& store, const std::string& data);

    void open(Request& request);
    void read(Request& request);
    void write(Request& request);
    void size(Request& request);
    void sync(Request& request);
    void rename(Request& request);
    void unlink(Request& request);
    void list(Request& request);
    void truncate(Request& request);

private:
    // Descriptor of the folder, or -EINVAL.
    [[nodiscard]] int root(std::uint64_t number) const;

    HandleTable& handles_;
    Descriptor store_;
    Descriptor data_;
};

} // namespace flex::agent

#endif
