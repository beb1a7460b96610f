#include "api/http.h"

#include <poll.h>

#include "api/openai.h"

namespace flex::api {

void send_error(httplib::Response& response, const Error& error) {
    response.status = http_status(error.code);
    if (response.status == 503) response.set_header("Retry-After", "1");
    response.set_content(format_error(error), kJson);
}

bool peer_has_gone(const httplib::Request& request) {
    auto* ssl =
        const_cast<SSL*>(request.ssl); // httplib hands it out read-only; this thread owns the connection
    pollfd state{SSL_get_fd(ssl), POLLIN | POLLRDHUP, 0};
    if (::poll(&state, 1, 0) <= 0) return false;
    if ((state.revents & (POLLERR | POLLHUP | POLLRDHUP | POLLNVAL)) != 0) return true;
    char next = 0; // something came: the next request, or the notice that there will be none
    const int got = SSL_peek(ssl, &next, 1);
    return got <= 0 && SSL_get_error(ssl, got) != SSL_ERROR_WANT_READ;
}

} // namespace flex::api
