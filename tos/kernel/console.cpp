#include "kernel/console.hpp"

#include <cstdarg>

#include "arch/mmu.hpp"
#include "kernel/lock.hpp"
#include "kernel/program.hpp"
#include "kernel/rpc_engine.hpp"

namespace flex::tos {

namespace {

/* PL011 (Arm DDI 0183): data and flag register. EL3 has set up nothing here; QEMU's needs no more than the
 * enable bits. */
constexpr u64 kData = 0x00, kFlags = 0x18, kLineControl = 0x2c, kControl = 0x30;
constexpr u32 kTransmitFull = 1 << 5;
constexpr u32 kEightBitsWithFifo = 0x70, kEnableTransmit = 0x101;

constinit SpinLock uart_lock;
constinit bool uart_on = false;

volatile u32& uart(u64 offset) { return *kernel_pointer<volatile u32>(BOARD_SECURE_UART_BASE + offset); }

void put_char(char c) {
    if (c == '\n') put_char('\r');
    while ((uart(kFlags) & kTransmitFull) != 0) {
    }
    uart(kData) = static_cast<u8>(c);
}

void put_text(const char* text, u64 bytes) {
    if (!uart_on) {
        uart(kLineControl) = kEightBitsWithFifo;
        uart(kControl) = kEnableTransmit;
        uart_on = true;
    }
    for (u64 i = 0; i < bytes; i++) put_char(text[i]);
}

struct Line {
    char text[256];
    u64 length = 0;
    void add(char c) {
        if (length < sizeof text) text[length++] = c;
    }
    void add_number(u64 value, u64 base, u32 width, bool negative) {
        char digits[24];
        u32 n = 0;
        do {
            digits[n++] = "0123456789abcdef"[value % base];
            value /= base;
        } while (value != 0);
        if (negative) add('-');
        for (u32 i = n; i < width; i++) add('0');
        while (n > 0) add(digits[--n]);
    }
};

void format_line(Line& line, const char* format, va_list arguments) {
    for (const char* at = format; *at != '\0'; at++) {
        if (*at != '%') {
            line.add(*at);
            continue;
        }
        u32 width = 0;
        bool wide = false;
        for (at++; *at >= '0' && *at <= '9'; at++) width = width * 10 + static_cast<u32>(*at - '0');
        for (; *at == 'l'; at++) wide = true;
        switch (*at) {
        case 's':
            for (const char* s = va_arg(arguments, const char*); *s != '\0'; s++) line.add(*s);
            break;
        case 'c':
            line.add(static_cast<char>(va_arg(arguments, int)));
            break;
        case 'd': {
            const i64 value = wide ? va_arg(arguments, long) : va_arg(arguments, int);
            line.add_number(value < 0 ? -static_cast<u64>(value) : static_cast<u64>(value), 10, width,
                            value < 0);
            break;
        }
        case 'u':
        case 'x': {
            const u64 value = wide ? va_arg(arguments, unsigned long) : va_arg(arguments, unsigned);
            line.add_number(value, *at == 'x' ? 16 : 10, width, false);
            break;
        }
        default:
            line.add(*at);
        }
    }
}

} // namespace

void print(const char* format, ...) {
    Line line;
    va_list arguments;
    va_start(arguments, format);
    format_line(line, format, arguments);
    va_end(arguments);
    uart_lock.lock();
    put_text(line.text, line.length);
    uart_lock.unlock();
}

void print_now(const char* format, ...) {
    Line line;
    va_list arguments;
    va_start(arguments, format);
    format_line(line, format, arguments);
    va_end(arguments);
    put_text(line.text, line.length);
}

void print_both(const char* format, ...) {
    Line line;
    va_list arguments;
    va_start(arguments, format);
    format_line(line, format, arguments);
    va_end(arguments);
    print_program(line.text, line.length);
}

void print_program(const char* text, u64 bytes) {
    uart_lock.lock();
    put_text(text, bytes);
    uart_lock.unlock();
    post_log(text, bytes);
}

} // namespace flex::tos
