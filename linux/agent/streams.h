// Byte streams of abi/rpc.h: TCP on the device's own network.
#ifndef FLEX_LINUX_AGENT_STREAMS_H
#define FLEX_LINUX_AGENT_STREAMS_H

#include "linux/agent/handles.h"
#include "linux/agent/request.h"

namespace flex::agent {

// Serves the stream RPCs. Thread-safe. A call blocks at most for the time its request names; closing the
// handle ends it sooner.
class Streams {
public:
    explicit Streams(HandleTable& handles) : handles_(handles) {}

    void listen(Request& request);
    void accept(Request& request);
    void receive(Request& request);
    void send(Request& request);
    void poll(Request& request);
    void shutdown(Request& request);

private:
    HandleTable& handles_;
};

} // namespace flex::agent

#endif
