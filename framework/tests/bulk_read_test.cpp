#include "port/bulk_read.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "port/files.h"
#include "temporary_folder.h"

namespace flex::port {
namespace {

constexpr std::size_t kMiB = 1u << 20;

struct FreePages {
    void operator()(std::byte* p) const { std::free(p); }
};

class BulkRead : public testing::Test {
protected:
    BulkRead() : content_(9 * kMiB + 4096) {
        for (std::size_t i = 0; i < content_.size(); ++i)
            content_[i] = static_cast<std::byte>((i * 2654435761u) >> 13);
        EXPECT_TRUE(write_file(path_, content_).ok());
    }
    /// Forgets the file's pages, so that the next read goes to storage (where the file system allows it).
    void drop_cache() const {
        const File file = File::open(path_).value();
        EXPECT_EQ(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    /// Reads into memory whose address is `skew` past a page.
    [[nodiscard]] Result<std::vector<std::byte>> read(std::uint64_t offset, std::size_t bytes,
                                                      std::size_t skew = 0) const {
        const File file = File::open(path_).value();
        const std::unique_ptr<std::byte, FreePages> memory(
            static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + skew + 4095) / 4096 * 4096)));
        const std::span<std::byte> out(memory.get() + skew, bytes);
        FLEX_TRY(read_bulk(file.get(), offset, out));
        return std::vector<std::byte>(out.begin(), out.end());
    }
    [[nodiscard]] bool is_part(const Result<std::vector<std::byte>>& got, std::size_t offset) const {
        return got.ok() && std::ranges::equal(*got, std::span(content_).subspan(offset, got->size()));
    }

    test::TemporaryFolder folder_;
    const std::string path_ = folder_.path() + "/file";
    std::vector<std::byte> content_;
};

TEST_F(BulkRead, gives_the_file_s_content_whether_cached_or_not) {
    for (const bool cached : {true, false}) {
        if (!cached) drop_cache();
        EXPECT_TRUE(is_part(read(0, content_.size()), 0));
        if (!cached) drop_cache();
        EXPECT_TRUE(is_part(read(4096, 8 * kMiB), 4096));
        if (!cached) drop_cache();
        EXPECT_TRUE(is_part(read(3 * kMiB, 2 * kMiB), 3 * kMiB)); // one piece
    }
}

TEST_F(BulkRead, takes_any_offset_size_and_address) {
    drop_cache();
    EXPECT_TRUE(is_part(read(1, 5 * kMiB), 1));
    EXPECT_TRUE(is_part(read(4096, 5 * kMiB + 3), 4096));
    EXPECT_TRUE(is_part(read(4096, 5 * kMiB, 64), 4096));
    EXPECT_TRUE(is_part(read(7, 9), 7));
}

TEST_F(BulkRead, says_where_the_file_ends) {
    for (const std::size_t offset : {std::size_t{8} * kMiB, std::size_t{64} * kMiB}) {
        drop_cache();
        const auto got = read(offset, 4 * kMiB);
        ASSERT_FALSE(got.ok());
        EXPECT_EQ(got.error().code, ErrorCode::kIo);
        EXPECT_NE(got.error().message.find("the file ends"), std::string::npos) << got.error().message;
    }
}

TEST_F(BulkRead, what_cannot_be_read_is_an_error) {
    const File folder(::open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY));
    std::vector<std::byte> out(4096);
    EXPECT_EQ(read_bulk(folder.get(), 0, out).error().code, ErrorCode::kIo);
}

} // namespace
} // namespace flex::port
