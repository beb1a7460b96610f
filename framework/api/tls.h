// The server's side of TLS: a fresh leaf certificate under the device's CA, and the settings of every
// connection.
#pragma once

#include "base/result.h"
#include "port/port.h"

struct ssl_ctx_st;

namespace flex::api {

/// Sets `context` up: TLS 1.3 only, no resumption, a P-256 key made now whose certificate (localhost,
/// 127.0.0.1, ::1) is signed by the device's CA key. The leaf key exists in this process alone and goes with
/// it.
Status configure_tls(ssl_ctx_st* context, port::Port& port);

/// The CA certificate clients pin (the same as device-ca.pem).
Result<std::string> device_ca_pem(port::Port& port);

} // namespace flex::api
