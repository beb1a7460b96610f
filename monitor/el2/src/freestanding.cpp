// What the compiler and libfdt expect of a C library. Byte and word loops: no SIMD at EL2.
#include <stddef.h>
#include <stdint.h>

extern "C" {

void* memset(void* destination, int value, size_t bytes) {
    auto* out = static_cast<uint8_t*>(destination);
    while (bytes != 0 && (reinterpret_cast<uintptr_t>(out) & 7) != 0)
        *out++ = static_cast<uint8_t>(value), bytes--;
    auto* words = reinterpret_cast<volatile uint64_t*>(out);
    const uint64_t word = 0x0101010101010101 * static_cast<uint8_t>(value);
    for (; bytes >= 8; bytes -= 8) *words++ = word;
    out = reinterpret_cast<uint8_t*>(const_cast<uint64_t*>(words));
    while (bytes-- != 0) *static_cast<volatile uint8_t*>(out++) = static_cast<uint8_t>(value);
    return destination;
}

void* memmove(void* destination, const void* source, size_t bytes) {
    auto* out = static_cast<volatile uint8_t*>(destination);
    const auto* in = static_cast<const uint8_t*>(source);
    if (reinterpret_cast<uintptr_t>(destination) <= reinterpret_cast<uintptr_t>(source)) {
        for (size_t i = 0; i < bytes; i++) out[i] = in[i];
    } else {
        for (size_t i = bytes; i-- != 0;) out[i] = in[i];
    }
    return destination;
}

void* memcpy(void* destination, const void* source, size_t bytes) {
    return memmove(destination, source, bytes);
}

int memcmp(const void* left, const void* right, size_t bytes) {
    const auto* a = static_cast<const uint8_t*>(left);
    const auto* b = static_cast<const uint8_t*>(right);
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i]) return a[i] - b[i];
    }
    return 0;
}

void* memchr(const void* text, int value, size_t bytes) {
    const auto* in = static_cast<const uint8_t*>(text);
    for (size_t i = 0; i < bytes; i++) {
        if (in[i] == static_cast<uint8_t>(value)) return const_cast<uint8_t*>(in + i);
    }
    return nullptr;
}

size_t strlen(const char* text) {
    size_t length = 0;
    while (text[length] != 0) length++;
    return length;
}

size_t strnlen(const char* text, size_t most) {
    size_t length = 0;
    while (length < most && text[length] != 0) length++;
    return length;
}

int strcmp(const char* left, const char* right) {
    while (*left != 0 && *left == *right) left++, right++;
    return static_cast<uint8_t>(*left) - static_cast<uint8_t>(*right);
}

char* strchr(const char* text, int value) {
    for (;; text++) {
        if (*text == static_cast<char>(value)) return const_cast<char*>(text);
        if (*text == 0) return nullptr;
    }
}

char* strrchr(const char* text, int value) {
    char* found = nullptr;
    for (;; text++) {
        if (*text == static_cast<char>(value)) found = const_cast<char*>(text);
        if (*text == 0) return found;
    }
}
}
