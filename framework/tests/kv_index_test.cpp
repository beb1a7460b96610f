// The index of stored conversations as bytes: what is written is read again, and nothing else is.
#include "memory/kv_index.h"

#include <gtest/gtest.h>

namespace flex::memory {
namespace {

std::shared_ptr<StoredSession> session(std::byte id, std::size_t blocks) {
    auto s = std::make_shared<StoredSession>();
    s->id[0] = id;
    s->key.bytes()[5] = std::byte{42};
    s->cipher = crypto::Cipher::kAes256Gcm;
    s->binding.model[1] = s->binding.scope[2] = s->owner[3] = id;
    s->binding.layout = {engine::KvType::kF16, 3, 2, 64};
    s->model = "demo";
    s->used = 7;
    s->saved_at = 1'700'000'000;
    for (TokenId i = 0; i < blocks * engine::kKvBlockTokens; ++i) s->tokens.push_back(i * 3);
    for (std::uint64_t i = 0; i < blocks; ++i) s->blocks.push_back({i, {std::byte{1}}, {std::byte{2}}});
    return s;
}

KvIndex two() { return {9, 100, {session(std::byte{1}, 2), session(std::byte{2}, 5)}}; }

class KvIndexTest : public testing::Test {
protected:
    static void SetUpTestSuite() { crypto::initialise(); }
    const crypto::Secret32 device_ = crypto::random_secret().value();
    const crypto::Secret32 secret_ = crypto::random_secret().value();
};

TEST_F(KvIndexTest, what_is_written_is_read_again) {
    for (const auto cipher : {crypto::Cipher::kAes256Gcm, crypto::Cipher::kChaCha20Poly1305}) {
        const auto file = seal_index(two(), device_, secret_, cipher).value();
        const auto index = open_index(file, device_, secret_).value();
        EXPECT_EQ(format_index(index), format_index(two()));
        ASSERT_EQ(index.sessions.size(), 2u);
        EXPECT_EQ(index.sessions[1]->tokens[33], 99u);
        EXPECT_EQ(index.sessions[0]->model, "demo");
    }
}

TEST_F(KvIndexTest, no_two_writings_have_a_key_in_common) {
    const auto one = seal_index(two(), device_, secret_, crypto::Cipher::kAes256Gcm).value();
    const auto other = seal_index(two(), device_, secret_, crypto::Cipher::kAes256Gcm).value();
    ASSERT_EQ(one.size(), other.size());
    EXPECT_FALSE(std::equal(one.begin() + 48, one.begin() + 80, other.begin() + 48));
}

TEST_F(KvIndexTest, a_changed_byte_anywhere_is_refused) {
    const auto file =
        seal_index({1, 10, {session(std::byte{1}, 1)}}, device_, secret_, crypto::Cipher::kChaCha20Poly1305)
            .value();
    for (std::size_t at = 0; at < file.size(); ++at) {
        auto bad = file;
        bad[at] ^= std::byte{0x10};
        EXPECT_FALSE(open_index(bad, device_, secret_).ok()) << at;
    }
    for (std::size_t size = 0; size < file.size(); ++size)
        EXPECT_FALSE(open_index(std::span(file).first(size), device_, secret_).ok()) << size;
}

TEST_F(KvIndexTest, another_device_or_another_secret_opens_nothing) {
    const auto file = seal_index(two(), device_, secret_, crypto::Cipher::kAes256Gcm).value();
    const auto other = crypto::random_secret().value();
    EXPECT_EQ(open_index(file, other, secret_).error().code, ErrorCode::kAuthentication);
    EXPECT_EQ(open_index(file, device_, other).error().code, ErrorCode::kAuthentication);
}

// Behind the seal only what this program wrote can stand; it is checked all the same.
TEST_F(KvIndexTest, a_content_that_contradicts_itself_is_refused) {
    const auto refused = [](const KvIndex& index) {
        const auto read = parse_index(format_index(index));
        return !read.ok() && read.error().code == ErrorCode::kCorrupt;
    };
    EXPECT_FALSE(refused(two()));
    auto twice = two();
    twice.sessions[1]->id = twice.sessions[0]->id;
    EXPECT_TRUE(refused(twice));
    auto future = two();
    future.counter = 4;
    EXPECT_TRUE(refused(future));
    for (const std::uint32_t size : {0u, 4097u, UINT32_MAX}) {
        auto layers = two();
        layers.sessions[0]->binding.layout.layers = size;
        EXPECT_TRUE(refused(layers));
        auto heads = two();
        heads.sessions[0]->binding.layout.head_size = size;
        EXPECT_TRUE(refused(heads));
    }
    auto many = two();
    for (std::size_t i = 3; i <= kMaxStoredSessions + 1; ++i)
        many.sessions.push_back(session(static_cast<std::byte>(i), 0));
    EXPECT_TRUE(refused(many));
    auto content = format_index(two());
    content.push_back(std::byte{0});
    EXPECT_FALSE(parse_index(content).ok());
}

TEST_F(KvIndexTest, every_early_end_of_a_content_is_refused) {
    const auto content = format_index(two());
    for (std::size_t size = 0; size < content.size(); ++size)
        EXPECT_FALSE(parse_index(std::span(content).first(size)).ok()) << size;
}

TEST_F(KvIndexTest, blocks_differ_in_what_they_are_bound_to) {
    const auto one = session(std::byte{1}, 1), other = session(std::byte{2}, 1);
    const auto data = block_associated_data(*one, 0, 5);
    EXPECT_NE(block_associated_data(*one, 1, 5), data);
    EXPECT_NE(block_associated_data(*one, 0, 6), data);
    EXPECT_NE(block_associated_data(*other, 0, 5), data);
}

} // namespace
} // namespace flex::memory
