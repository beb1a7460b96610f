// What every command that talks to a person needs: Ctrl-C, and text that cannot command the terminal.
#include <csignal>

#include "cli/client.h"

namespace flex::cli {
namespace {
struct sigaction before {};
} // namespace

std::atomic<bool>& InterruptGuard::interrupted() {
    static std::atomic<bool> flag{false};
    return flag;
}

InterruptGuard::InterruptGuard() {
    interrupted() = false; // made before the handler can need it
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted() = true; };
    ::sigaction(SIGINT, &action, &before);
}

InterruptGuard::~InterruptGuard() { ::sigaction(SIGINT, &before, nullptr); }

std::string printable(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto c = static_cast<unsigned char>(text[i]);
        const bool is_c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
        if (is_c1) ++i; // U+0080 to U+009F
        if (is_c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            out += '?';
        else
            out += static_cast<char>(c);
    }
    return out;
}

} // namespace flex::cli
