#include "package/trust.h"

#include <gtest/gtest.h>

namespace flex::package {
namespace {

crypto::Public32 publisher(char c) {
    crypto::Public32 key;
    key.fill(static_cast<std::byte>(c));
    return key;
}

Manifest manifest(const char* name, std::uint64_t version, char id, char signer = 'p') {
    Manifest m;
    m.name = name;
    m.version = version;
    m.id.fill(static_cast<std::byte>(id));
    m.publisher = publisher(signer);
    return m;
}

const port::TrustList kList{1, {publisher('p'), publisher('q')}};

void expect_refused(const Result<bool>& result, const char* why) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kAuthentication);
    EXPECT_NE(result.error().message.find(why), std::string::npos) << result.error().message;
}

TEST(Trust, versions_only_rise) {
    TrustRecord record;
    EXPECT_TRUE(admit(manifest("m", 5, 'a'), kList, record).value());
    EXPECT_FALSE(admit(manifest("m", 5, 'a'), kList, record).value()); // the same again: nothing to write
    EXPECT_TRUE(admit(manifest("m", 7, 'b'), kList, record).value());
    expect_refused(admit(manifest("m", 5, 'a'), kList, record), "version 5 is older than version 7");
    EXPECT_FALSE(admit(manifest("m", 7, 'b'), kList, record).value());
}

TEST(Trust, one_version_has_one_content) {
    TrustRecord record;
    ASSERT_TRUE(admit(manifest("m", 5, 'a'), kList, record).ok());
    expect_refused(admit(manifest("m", 5, 'b'), kList, record), "same version 5");
}

TEST(Trust, names_are_counted_apart) {
    TrustRecord record;
    ASSERT_TRUE(admit(manifest("m", 9, 'a'), kList, record).ok());
    EXPECT_TRUE(admit(manifest("n", 1, 'b'), kList, record).ok());
}

TEST(Trust, a_name_stays_with_its_publisher) {
    TrustRecord record;
    ASSERT_TRUE(admit(manifest("m", 5, 'a', 'p'), kList, record).ok());
    expect_refused(admit(manifest("m", 6, 'b', 'q'), kList, record), "another publisher");
}

TEST(Trust, an_unlisted_publisher_is_refused_and_leaves_no_trace) {
    TrustRecord record;
    expect_refused(admit(manifest("m", 5, 'a', 'x'), kList, record), "does not trust");
    EXPECT_TRUE(record.seen.empty());
}

TEST(Trust, an_older_list_of_publishers_does_not_come_back) {
    TrustRecord record;
    const port::TrustList newer{2, {publisher('p')}};
    ASSERT_TRUE(admit(manifest("m", 5, 'a'), newer, record).ok());
    expect_refused(admit(manifest("n", 5, 'a', 'q'), kList, record), "older than one it has seen");
}

TEST(Trust, the_record_survives_its_store) {
    TrustRecord record;
    EXPECT_TRUE(parse_record({}).value().seen.empty());
    for (std::size_t i = 0; i < kMaxSeenPackages; ++i) {
        ASSERT_TRUE(admit(manifest(("m" + std::to_string(i)).c_str(), i + 1, 'a'), kList, record).ok());
    }
    const auto full = admit(manifest("one-more", 1, 'a'), kList, record);
    ASSERT_FALSE(full.ok());
    EXPECT_EQ(full.error().code, ErrorCode::kUnsupported);

    auto content = format_record(record);
    EXPECT_LE(content.size(), 16384u);
    content.resize(16384, std::byte{0xff}); // the store may return its whole area
    auto read = parse_record(content).value();
    EXPECT_EQ(read.trust_serial, 1u);
    ASSERT_EQ(read.seen.size(), kMaxSeenPackages);
    expect_refused(admit(manifest("m9", 9, 'a'), kList, read), "older");
}

TEST(Trust, the_conversations_secret_lies_behind_the_packages_and_stays_with_them) {
    TrustRecord record;
    for (std::size_t i = 0; i < kMaxSeenPackages; ++i)
        ASSERT_TRUE(admit(manifest(("m" + std::to_string(i)).c_str(), 1, 'a'), kList, record).ok());
    EXPECT_FALSE(parse_record(format_record(record)).value().conversations);
    record.conversations.emplace().fill(std::byte{7});
    auto content = format_record(record);
    EXPECT_LE(content.size(), 16384u);
    content.resize(16384, std::byte{0xff});
    auto read = parse_record(content).value();
    EXPECT_EQ(read.conversations, record.conversations);
    ASSERT_TRUE(admit(manifest("m3", 2, 'a'), kList, read).ok());
    EXPECT_EQ(parse_record(format_record(read)).value().conversations, record.conversations);
}

TEST(Trust, a_damaged_store_is_refused_rather_than_taken_as_empty) {
    TrustRecord record;
    ASSERT_TRUE(admit(manifest("m", 5, 'a'), kList, record).ok());
    auto content = format_record(record);
    EXPECT_FALSE(parse_record(crypto::Bytes(content).first(content.size() - 1)).ok());
    content[0] ^= std::byte{1};
    EXPECT_FALSE(parse_record(content).ok());
}

} // namespace
} // namespace flex::package
