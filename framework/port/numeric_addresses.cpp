// Name resolution for a program that only ever meets numeric addresses. Defined here, these take the place of
// the C library's own, which would bring name services, their plug-ins and their files into the trusted base.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {

int getaddrinfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result) {
    char* end = nullptr;
    const unsigned long port = service == nullptr ? 0 : std::strtoul(service, &end, 10);
    if (port > 65535 || (end != nullptr && *end != '\0')) return EAI_SERVICE;
    struct Found {
        addrinfo info;
        sockaddr_in address;
    };
    auto* found = static_cast<Found*>(std::calloc(1, sizeof(Found)));
    if (found == nullptr) return EAI_MEMORY;
    found->address.sin_family = AF_INET;
    found->address.sin_port = htons(static_cast<std::uint16_t>(port));
    if (node != nullptr && inet_pton(AF_INET, node, &found->address.sin_addr) != 1) {
        std::free(found);
        return EAI_NONAME;
    }
    found->info.ai_family = AF_INET;
    found->info.ai_socktype = hints == nullptr || hints->ai_socktype == 0 ? SOCK_STREAM : hints->ai_socktype;
    found->info.ai_protocol = hints == nullptr ? 0 : hints->ai_protocol;
    found->info.ai_addrlen = sizeof(found->address);
    found->info.ai_addr = reinterpret_cast<sockaddr*>(&found->address);
    *result = &found->info; // the first member: freeaddrinfo frees the whole
    return 0;
}

void freeaddrinfo(addrinfo* info) { std::free(info); }

int getnameinfo(const sockaddr* address, socklen_t length, char* host, socklen_t host_bytes, char* service,
                socklen_t service_bytes, int) {
    if (length < sizeof(sockaddr_in) || address->sa_family != AF_INET) return EAI_FAMILY;
    sockaddr_in in{};
    std::memcpy(&in, address, sizeof(in));
    if (host != nullptr && inet_ntop(AF_INET, &in.sin_addr, host, host_bytes) == nullptr) return EAI_OVERFLOW;
    if (service != nullptr) std::snprintf(service, service_bytes, "%u", ntohs(in.sin_port));
    return 0;
}

hostent* gethostbyname(const char*) { return nullptr; }

} // extern "C"
