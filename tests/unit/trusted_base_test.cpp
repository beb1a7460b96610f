// What has to be trusted, counted: lines of code (neither blank nor only comment) of what runs above the normal world.
#include <gtest/gtest.h>

#include <array>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace flex::test {
namespace {

namespace fs = std::filesystem;

/// Lines of C, C++ or assembly with something on them besides space and comments.
std::size_t lines_of_code(std::string_view text) {
    std::size_t lines = 0;
    bool code = false, block = false;
    char quote = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        const std::string_view two = text.substr(i, 2);
        if (c == '\n') {
            lines += code;
            code = false;
            quote = 0;
        } else if (block) {
            if (two == "*/") block = false, ++i;
        } else if (quote != 0) {
            if (c == '\\') ++i;
            else if (c == quote) quote = 0;
        } else if (two == "/*") {
            block = true;
            ++i;
        } else if (two == "//") {
            while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
        } else if (c != ' ' && c != '\t' && c != '\r') {
            code = true;
            if (c == '"' || (c == '\'' && (i == 0 || !std::isalnum(static_cast<unsigned char>(text[i - 1]))))) quote = c;
        }
    }
    return lines + code;
}

struct Room {
    const char* path;
    std::size_t budget; ///< lines; whoever has a reason to pass it states a new one here
};

// The published system has 4 500 lines of monitor and 3 300 of trusted application.
constexpr std::array kRooms{
    Room{"abi", 600},
    Room{"monitor", 4500},
    Room{"tos", 8000},
    Room{"npu/driver", 800},
    Room{"npu/job", 250},
    Room{"framework/base", 1000},
    Room{"framework/engine", 6000},
    Room{"framework/tokenizer", 2500},
    Room{"framework/package", 2000},
    Room{"framework/memory", 2500},
    Room{"framework/pipeline", 2000},
    Room{"framework/schedule", 2000},
    Room{"framework/api", 3500},
    Room{"framework/port", 1500},
    Room{"framework/main", 500},
};

// Not in the device: tests, the native port, the publisher's side, and kernels of other processors.
bool is_trusted_code(const fs::path& file) {
    const std::string name = file.filename();
    for (const fs::path& part : file)
        if (part == "tests") return false;
    for (const char* outside : {"avx", "native.cpp", "linux_npu", "seal.", "convert", "chat_compiler", "chat_probes", "jinja"})
        if (name.starts_with(outside)) return false;
    const std::string extension = file.extension();
    return extension == ".cpp" || extension == ".h" || extension == ".hpp" || extension == ".S" || extension == ".c";
}

std::size_t count(const fs::path& folder) {
    std::size_t lines = 0;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
        if (!entry.is_regular_file() || !is_trusted_code(fs::relative(entry.path(), folder))) continue;
        std::ostringstream text;
        text << std::ifstream(entry.path()).rdbuf();
        lines += lines_of_code(text.str());
    }
    return lines;
}

TEST(LinesOfCode, are_those_with_more_than_space_and_comment) {
    EXPECT_EQ(lines_of_code(""), 0u);
    EXPECT_EQ(lines_of_code("a\n\n  \n b"), 2u);
    EXPECT_EQ(lines_of_code("// a\n  /* b\n c */\nd /* e */\n/* f */ g // h\n"), 2u);
    EXPECT_EQ(lines_of_code("\"/*\"\n'\"'\nx\n"), 3u);
    EXPECT_EQ(lines_of_code("1'000 /* a */\n"), 1u);
}

TEST(TrustedBase, is_within_its_budget_by_room) {
    std::size_t total = 0;
    for (const Room& room : kRooms) {
        const fs::path folder = fs::path(FLEX_SOURCE_DIR) / room.path;
        if (!fs::exists(folder)) continue;
        const std::size_t lines = count(folder);
        std::printf("%-22s %6zu lines\n", room.path, lines);
        EXPECT_GT(lines, 0u) << room.path;
        EXPECT_LE(lines, room.budget) << room.path;
        total += lines;
    }
    std::printf("%-22s %6zu lines\n", "trusted base", total);
}

} // namespace
} // namespace flex::test
