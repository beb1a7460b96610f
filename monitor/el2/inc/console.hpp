#pragma once

#include "types.hpp"

namespace flex::monitor {

// One argument of print(): text or a number.
class PrintArgument final {
public:
    PrintArgument() = default;
    PrintArgument(const char* text) : text_(text) {}
    template <class Number> PrintArgument(Number number) : number_(static_cast<u64>(number)) {}
    [[nodiscard]] const char* text() const { return text_ != nullptr ? text_ : "?"; }
    [[nodiscard]] u64 number() const { return number_; }

private:
    const char* text_ = nullptr;
    u64 number_ = 0;
};

void print_arguments(const char* format, const PrintArgument* arguments, unsigned count);

// The monitor's words, on UART0 by polling; lines from several cores may mix. %s text, %d signed, %u
// unsigned, %x hexadecimal.
template <class... Arguments> void print(const char* format, Arguments... arguments) {
    const PrintArgument list[] = {PrintArgument(arguments)..., PrintArgument()};
    print_arguments(format, list, sizeof...(arguments));
}

struct Frame;

// Prints the reason, the registers and the state of the pages concerned, and stops this core; the others stop
// when they next trap.
[[noreturn]] void panic(const char* reason, const Frame* frame = nullptr);
#define FLEX_MONITOR_STRING_(x) #x
#define FLEX_MONITOR_STRING(x) FLEX_MONITOR_STRING_(x)
// A condition that only a fault of the monitor or the firmware can break; stays in every build.
#define FLEX_REQUIRE(condition)                                                                              \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            ::flex::monitor::panic(__FILE__ ":" FLEX_MONITOR_STRING(__LINE__) ": " #condition);              \
    } while (0)

} // namespace flex::monitor
