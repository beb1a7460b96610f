#include "console.hpp"

#include "arch.hpp"
#include "board.h"
#include "frame_registers.hpp"
#include "monitor.hpp"

namespace flex::monitor {
namespace {

// PL011 (Arm DDI 0183): data register and flag register.
constexpr u64 kData = BOARD_UART0_BASE + 0x00;
constexpr u64 kFlags = BOARD_UART0_BASE + 0x18;
constexpr u32 kTransmitFull = 1u << 5;

void put(char c) {
    if (c == '\n') put('\r');
    while ((arch::read32(kFlags) & kTransmitFull) != 0) arch::yield();
    arch::write32(kData, static_cast<u8>(c));
}

void put_number(u64 value, unsigned base) {
    char digits[20];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (count != 0) put(digits[--count]);
}

void put_signed(s64 value) {
    if (value < 0) put('-');
    put_number(value < 0 ? -static_cast<u64>(value) : static_cast<u64>(value), 10);
}

void print_page(const char* name, u64 address) {
    const PageState page = describe_page(address);
    print("  %s %x: frame %s, normal tree %x (level %u), own stage 1 %x (level %u)\n", name, address,
          page.frame, page.normal.descriptor, page.normal.level, page.own.descriptor, page.own.level);
}

} // namespace

void print_arguments(const char* format, const PrintArgument* arguments, unsigned count) {
    const PrintArgument none;
    for (unsigned used = 0; *format != 0; format++) {
        if (*format != '%' || format[1] == 0) {
            put(*format);
            continue;
        }
        const PrintArgument& argument = used < count ? arguments[used++] : none;
        switch (*++format) {
        case 's':
            for (const char* text = argument.text(); *text != 0; text++) put(*text);
            break;
        case 'd':
            put_signed(static_cast<s64>(argument.number()));
            break;
        case 'u':
            put_number(argument.number(), 10);
            break;
        case 'x':
            put('0'), put('x');
            put_number(argument.number(), 16);
            break;
        default:
            put(*format);
            break;
        }
    }
}

void panic(const char* reason, const Frame* frame) {
    stop_other_cores();
    print("\nmonitor: panic on core %x: %s\n", FLEX_READ(mpidr_el1) & 0xffffff, reason);
    if (frame != nullptr) {
        for (u64 i = 0; i < 31; i++) print("  x%u %x%s", i, frame->x[i], i % 4 == 3 ? "\n" : "");
        print("\n  sp %x elr %x spsr %x esr %x far %x\n", frame->sp, frame->elr, frame->spsr, frame->esr,
              frame->far);
        // HPFAR_EL2 bits [43:4] hold bits [51:12] of the IPA of a stage 2 fault.
        print_page("hpfar page", field(FLEX_READ(hpfar_el2), 43, 4) << 12);
        print_page("far page", round_down(frame->far, kFrameSize));
        print_page("elr page", round_down(frame->elr, kFrameSize));
    }
    print("  caller %x sctlr_el2 %x hcr_el2 %x vttbr_el2 %x\n",
          reinterpret_cast<u64>(__builtin_return_address(0)), FLEX_READ(sctlr_el2), FLEX_READ(hcr_el2),
          FLEX_READ(vttbr_el2));
    for (;;) arch::wait_for_event();
}

extern "C" [[noreturn]] void panic_on_exception(const Frame* frame) {
    panic("exception inside the monitor", frame);
}

} // namespace flex::monitor
