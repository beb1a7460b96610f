// Control port: a convenience of development and tests. Whoever can reach it runs commands as root in the
// normal world, which FlexServe does not trust anyway; QEMU forwards it to the developer's loopback interface
// only.
//
// The client sends one line, a shell command; it receives what the command prints to stdout and stderr, and
// at the end a line "\x1e" "exit N".
#ifndef FLEX_LINUX_AGENT_CONTROL_H
#define FLEX_LINUX_AGENT_CONTROL_H

#include <cstdint>

namespace flex::agent {

// Listens for ever; a thread a connection. Throws std::system_error when the port cannot be had.
[[noreturn]] void serve_control_port(std::uint16_t port);
// Serves one connection and closes it.
void serve_control_connection(int socket);

} // namespace flex::agent

#endif
