// Apart, because cpp-httplib is large.
#include <httplib.h>

#include "launcher/sockets.h"

namespace flex::platform {

bool https_healthy(std::uint16_t port, std::chrono::milliseconds timeout) {
    httplib::SSLClient client("127.0.0.1", port);
    client.enable_server_certificate_verification(false);
    client.set_connection_timeout(timeout);
    client.set_read_timeout(timeout);
    client.set_write_timeout(timeout);
    const httplib::Result answer = client.Get("/health");
    return answer && answer->status == 200;
}

} // namespace flex::platform
