// Serves RPC slots: from op number to the file, stream or log it is about.
#ifndef FLEX_LINUX_AGENT_SERVER_H
#define FLEX_LINUX_AGENT_SERVER_H

#include "linux/agent/files.h"
#include "linux/agent/handles.h"
#include "linux/agent/log.h"
#include "linux/agent/request.h"
#include "linux/agent/streams.h"

namespace flex::agent {

// Thread-safe; one call a slot at a time.
class Server {
public:
    Server(HandleTable& handles, const std::string& store, const std::string& data, Log& log)
        : handles_(handles), files_(handles, store, data), streams_(handles), log_(log) {}

    // Every op but the kernel's own and LOAD. Unknown ones end in -ENOSYS.
    void serve(Request& request);

private:
    void serve_file(Request& request);
    void serve_stream(Request& request);

    HandleTable& handles_;
    Files files_;
    Streams streams_;
    Log& log_;
};

} // namespace flex::agent

#endif
