#include "api/operator.h"

#include <string>

#include "base/crypto.h"
#include "port/identity.h"

namespace flex::api {

bool is_operator(port::Port& port, std::string_view authorization, std::string_view operator_header) {
    constexpr std::string_view kScheme = "Bearer ";
    auto token = port::operator_token([&](std::string_view label) { return port.device_key(label); });
    if (!token) return false;
    const auto is_token = [&](std::string_view given) {
        return crypto::equal_constant_time(crypto::bytes_of(*token), crypto::bytes_of(given));
    };
    const bool found = is_token(operator_header) ||
                       (authorization.starts_with(kScheme) && is_token(authorization.substr(kScheme.size())));
    crypto::wipe(std::as_writable_bytes(std::span(*token)));
    return found;
}

} // namespace flex::api
