// Every way to tamper with a package, and the word with which it is refused.
#include "package/package.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/model.h"
#include "engine/tests/packed_copy.h"
#include "package/seal.h"
#include "temporary_folder.h"

namespace flex::package {
namespace {
namespace fs = std::filesystem;

const std::string kSource = FLEX_SOURCE_DIR "/models/demo/demo.gguf";

/// Like port::write_file, but without waiting for the disk.
bool put(const std::string& path, std::span<const std::byte> content) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
    return static_cast<bool>(out.flush());
}

std::vector<std::byte> bytes_of_file(const std::string& path) {
    return port::read_file(path, 1u << 30).value();
}

/// Makes the signature of a changed header and manifest good again (docs/package-format.md).
void resign(std::vector<std::byte>& prefix, const crypto::Secret32& key) {
    std::vector<std::byte> message;
    for (const char c : std::string_view("flexserve package signature v1\n"))
        message.push_back(static_cast<std::byte>(c));
    message.insert(message.end(), prefix.begin(), prefix.begin() + 48);
    message.insert(message.end(), prefix.begin() + kHeaderBytes, prefix.end());
    std::ranges::copy(crypto::ed25519_sign(key, message).value(), prefix.begin() + 48);
}

/// One device with a publisher it trusts.
class PackageTest : public testing::Test {
protected:
    void SetUp() override {
        device_ = port::make_native_port(folder_.path()).value();
        ASSERT_TRUE(port::provision_native(folder_.path(), home_.path()).ok());
        publisher_ = port::publisher_key(home_.path()).value();
        trust_.emplace(*device_);
    }

    SealOptions options(std::uint64_t version = 1) {
        SealOptions o;
        o.source = kSource;
        o.name = "m";
        o.target = path();
        o.version = version;
        o.chunk_bytes = 64 << 10;
        o.device = crypto::x25519_public(device_->device_key(port::kPackageKeyLabel).value()).value();
        return o;
    }
    [[nodiscard]] std::string path(const std::string& name = "m") const {
        return folder_.path() + "/store/" + name + ".flex";
    }
    Manifest seal(std::uint64_t version = 1) {
        return package::seal(options(version), publisher_).value().manifest;
    }

    /// Opens the package and reads all of it.
    Status open_and_load() {
        FLEX_ASSIGN(auto package, Package::open(*device_, *trust_, "m"));
        LoadTimes times;
        for (std::uint32_t group = 0; group < package->manifest().groups.size(); ++group) {
            FLEX_ASSIGN(auto buffer, package->load(group, times));
        }
        return {};
    }
    void expect_refused(ErrorCode code, const std::string& word) {
        const auto status = open_and_load();
        ASSERT_FALSE(status.ok());
        EXPECT_EQ(status.error().code, code) << status.error().message;
        EXPECT_NE(status.error().message.find(word), std::string::npos) << status.error().message;
        EXPECT_EQ(status.error().message.find('\n'), std::string::npos);
        EXPECT_TRUE(status.error().message.starts_with("m.flex: ")) << status.error().message;
    }
    void edit(const std::function<void(std::vector<std::byte>&)>& change) {
        auto content = bytes_of_file(path());
        change(content);
        ASSERT_TRUE(put(path(), content));
    }

    test::TemporaryFolder folder_, home_;
    std::unique_ptr<port::Port> device_;
    crypto::Secret32 publisher_;
    std::optional<TrustStore> trust_;
};

class CipherTest : public PackageTest, public testing::WithParamInterface<crypto::Cipher> {};

TEST_P(CipherTest, what_was_sealed_comes_back_byte_for_byte) {
    auto o = options();
    o.cipher = GetParam();
    ASSERT_TRUE(package::seal(o, publisher_).ok());
    const auto source = bytes_of_file(kSource);
    const auto gguf = engine::Gguf::parse(source).value();
    const auto model = engine::Model::plan(gguf).value();

    auto package = Package::open(*device_, *trust_, "m").value();
    LoadTimes times;
    const auto metadata = package->load_metadata(times).value();
    EXPECT_TRUE(std::ranges::equal(metadata.header, std::span(source).first(gguf.data_offset())));
    ASSERT_EQ(metadata.places.size(), model.tensors().size());
    std::size_t tensor = 0;
    for (engine::Stage stage = 0; stage < model.stages(); ++stage) {
        const auto buffer = package->load(stage + 1, times).value();
        for (const auto& need : model.tensors(stage)) {
            const TensorPlace& place = metadata.places[tensor++];
            EXPECT_EQ(place.name, need.name);
            EXPECT_EQ(place.stage, stage);
            EXPECT_EQ(place.offset % kTensorAlignment, 0u);
            const auto packed = engine::testing::packed_copy(need, source);
            EXPECT_TRUE(std::ranges::equal(buffer.bytes().subspan(place.offset, place.bytes),
                                           std::span(packed.get(), need.bytes)))
                << need.name;
        }
    }
    EXPECT_GT(times.decrypt_ns, 0u);
}

INSTANTIATE_TEST_SUITE_P(Ciphers, CipherTest,
                         testing::Values(crypto::Cipher::kAes256Gcm, crypto::Cipher::kChaCha20Poly1305),
                         [](const auto& info) {
                             return info.param == crypto::Cipher::kAes256Gcm ? "aes" : "chacha";
                         });

TEST_F(PackageTest, chunks_are_page_aligned_and_contiguous) {
    const Manifest m = seal();
    std::uint64_t offset = m.data_offset;
    for (std::uint32_t i = 0; i < m.chunks.size(); ++i) {
        EXPECT_EQ(m.chunk_offset(i), offset);
        EXPECT_EQ(offset % kAlignment, 0u);
        EXPECT_EQ(m.chunks[i].bytes % kAlignment, 0u);
        offset += m.chunks[i].bytes;
    }
    EXPECT_EQ(offset, fs::file_size(path()));
}

TEST_F(PackageTest, no_clear_text_of_the_model_is_in_the_file) {
    const Manifest m = seal();
    const auto source = bytes_of_file(kSource), sealed = bytes_of_file(path());
    const std::string_view text(reinterpret_cast<const char*>(sealed.data()), sealed.size());
    EXPECT_EQ(text.find("tokenizer.ggml"), std::string_view::npos);
    EXPECT_EQ(text.find("attn_q.weight"), std::string_view::npos);
    const std::string_view weights(reinterpret_cast<const char*>(source.data()), source.size());
    for (std::size_t at = source.size() / 2; at + 64 < source.size(); at += 65536) {
        EXPECT_EQ(text.find(weights.substr(at, 16)), std::string_view::npos) << at;
    }
}

TEST_F(PackageTest, sealing_twice_shares_neither_id_nor_ciphertext) {
    const Manifest first = seal();
    const auto before = bytes_of_file(path());
    const Manifest second = seal(2);
    const auto after = bytes_of_file(path());
    EXPECT_NE(first.id, second.id);
    EXPECT_NE(first.wrapped_key, second.wrapped_key);
    EXPECT_FALSE(std::ranges::equal(std::span(before).last(4096), std::span(after).last(4096)));
}

// Every byte of header and manifest is either covered by the signature or checked to be what it must be.
TEST_F(PackageTest, a_change_of_any_byte_before_the_data_is_refused) {
    const Manifest m = seal();
    const auto good = bytes_of_file(path());
    const std::size_t prefix = serialized_bytes(m);
    for (std::size_t i = 0; i < prefix; i += i < 512 ? 1 : 37) {
        auto changed = good;
        changed[i] ^= std::byte{0x40};
        ASSERT_TRUE(put(path(), changed));
        EXPECT_FALSE(Package::open(*device_, *trust_, "m").ok()) << "byte " << i;
    }
}

TEST_F(PackageTest, a_change_in_the_manifest_is_told_as_such) {
    seal();
    edit([](auto& content) { content[kHeaderBytes + 16] ^= std::byte{1}; }); // the version
    expect_refused(ErrorCode::kAuthentication, "changed after it was sealed");
}

TEST_F(PackageTest, a_change_in_the_weights_names_the_chunk) {
    const Manifest m = seal();
    edit([&](auto& content) { content[m.chunk_offset(7) + 100] ^= std::byte{1}; });
    expect_refused(ErrorCode::kAuthentication, "chunk 7 of");
}

TEST_F(PackageTest, swapped_chunks_are_refused) {
    const Manifest m = seal();
    ASSERT_EQ(m.chunks[1].bytes, m.chunks[2].bytes);
    edit([&](auto& content) {
        const auto at = [&](std::uint32_t i) {
            return content.begin() + static_cast<std::ptrdiff_t>(m.chunk_offset(i));
        };
        std::swap_ranges(at(1), at(2), at(2));
    });
    expect_refused(ErrorCode::kAuthentication, "chunk 1 of");
}

TEST_F(PackageTest, chunks_of_another_version_are_refused) {
    seal(1);
    const auto old = bytes_of_file(path());
    const Manifest m = seal(2);
    edit([&](auto& content) {
        const auto at = static_cast<std::ptrdiff_t>(m.chunk_offset(3));
        std::copy_n(old.begin() + at, m.chunks[3].bytes, content.begin() + at);
    });
    expect_refused(ErrorCode::kAuthentication, "chunk 3 of");
}

TEST_F(PackageTest, every_truncation_is_refused) {
    const Manifest m = seal();
    const auto good = bytes_of_file(path());
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{8}, kHeaderBytes - 1, kHeaderBytes, kHeaderBytes + 100,
          static_cast<std::size_t>(m.data_offset), good.size() / 2, good.size() - 4096, good.size() - 1}) {
        ASSERT_TRUE(put(path(), std::span(good).first(length)));
        expect_refused(ErrorCode::kCorrupt, length < kHeaderBytes ? "not a FlexServe package" : "truncated");
    }
}

TEST_F(PackageTest, bytes_after_the_end_are_refused) {
    seal();
    edit([](auto& content) { content.resize(content.size() + 4096); });
    expect_refused(ErrorCode::kCorrupt, "too long");
}

TEST_F(PackageTest, a_file_of_another_kind_is_no_package) {
    ASSERT_TRUE(put(path(), bytes_of_file(kSource)));
    expect_refused(ErrorCode::kCorrupt, "not a FlexServe package");
}

TEST_F(PackageTest, a_newer_format_is_told_as_such) {
    seal();
    edit([](auto& content) { content[8] = std::byte{9}; });
    expect_refused(ErrorCode::kUnsupported, "format 9");
}

TEST_F(PackageTest, a_package_for_another_device_is_refused) {
    const test::TemporaryFolder other_folder;
    const auto other = port::make_native_port(other_folder.path()).value();
    auto o = options();
    o.device = crypto::x25519_public(other->device_key(port::kPackageKeyLabel).value()).value();
    ASSERT_TRUE(package::seal(o, publisher_).ok());
    expect_refused(ErrorCode::kAuthentication, "another device");
}

TEST_F(PackageTest, a_package_by_a_publisher_nobody_told_the_device_of_is_refused) {
    const auto stranger = crypto::random_secret().value();
    ASSERT_TRUE(package::seal(options(), stranger).ok());
    expect_refused(ErrorCode::kAuthentication, "does not trust");
}

TEST_F(PackageTest, an_older_version_is_refused_once_a_newer_one_was_seen_even_by_a_restarted_device) {
    seal(1);
    const auto old = bytes_of_file(path());
    ASSERT_TRUE(open_and_load().ok());
    seal(2);
    ASSERT_TRUE(open_and_load().ok());
    ASSERT_TRUE(put(path(), old));
    expect_refused(ErrorCode::kAuthentication, "older than version 2");
    device_ = port::make_native_port(folder_.path()).value();
    trust_.emplace(*device_);
    expect_refused(ErrorCode::kAuthentication, "older than version 2");
}

TEST_F(PackageTest, a_package_under_another_name_is_refused) {
    auto o = options();
    o.name = "other";
    ASSERT_TRUE(package::seal(o, publisher_).ok()); // target stays m.flex
    expect_refused(ErrorCode::kAuthentication, "under another name");
}

TEST_F(PackageTest, a_missing_package_tells_how_to_make_one) {
    const auto package = Package::open(*device_, *trust_, "m");
    ASSERT_FALSE(package.ok());
    EXPECT_EQ(package.error().code, ErrorCode::kNotFound);
    EXPECT_NE(package.error().message.find("flexserve seal"), std::string::npos);
}

TEST_F(PackageTest, names_cannot_leave_the_store) {
    for (const char* name : {"", ".", "..", "../m", "a/b", ".hidden", "a\n"}) {
        EXPECT_FALSE(Package::open(*device_, *trust_, name).ok()) << name;
    }
}

TEST_F(PackageTest, without_a_list_of_publishers_nothing_runs) {
    seal();
    fs::remove(folder_.path() + "/store/" + port::kTrustFile);
    expect_refused(ErrorCode::kNotFound, "which publishers to trust");
}

// What a publisher's own key could sign: consistent signatures over inconsistent numbers.
TEST_F(PackageTest, signed_nonsense_is_refused_without_harm) {
    const Manifest good = seal();
    const auto content = bytes_of_file(path());
    const std::pair<const char*, std::function<void(Manifest&)>> cases[] = {
        {"no groups", [](Manifest& m) { m.groups.clear(); }},
        {"a group too far", [](Manifest& m) { m.groups[1].chunk_count += 1; }},
        {"a group of 2^32 chunks", [](Manifest& m) { m.groups[1].chunk_count = UINT32_MAX; }},
        {"groups swapped", [](Manifest& m) { std::swap(m.groups[1], m.groups[2]); }},
        {"a chunk of 4 GiB", [](Manifest& m) { m.chunks[1].bytes = 0xfffff000; }},
        {"an empty chunk", [](Manifest& m) { m.chunks[1].bytes = 0; }},
        {"a chunk off the page", [](Manifest& m) { m.chunks[1].bytes += 1; }},
        {"a chunk of another group", [](Manifest& m) { m.chunks[1].group = 3; }},
        {"data elsewhere", [](Manifest& m) { m.data_offset += 4096; }},
        {"data at 2^63", [](Manifest& m) { m.data_offset = std::uint64_t{1} << 63; }},
        {"a huge chunk size", [](Manifest& m) { m.chunk_bytes = 1u << 31; }},
        {"an unknown cipher", [](Manifest& m) { m.cipher = static_cast<crypto::Cipher>(3); }},
        {"a name with a slash", [](Manifest& m) { m.name = "a/b"; }},
        {"another file size", [](Manifest& m) { m.file_bytes += 4096; }},
    };
    for (const auto& [what, change] : cases) {
        Manifest m = good;
        change(m);
        const auto prefix = serialize(m, publisher_).value();
        auto changed = content;
        changed.resize(std::max(changed.size(), prefix.size()));
        std::ranges::copy(prefix, changed.begin());
        ASSERT_TRUE(put(path(), changed));
        EXPECT_FALSE(Package::open(*device_, *trust_, "m").ok()) << what;
    }
}

TEST_F(PackageTest, signed_noise_is_refused_or_consistent) {
    const Manifest good = seal();
    const auto content = bytes_of_file(path());
    const std::size_t length = serialized_bytes(good);
    std::uint64_t state = 1;
    const auto random = [&state](std::uint64_t below) { // splitmix64
        std::uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return (z ^ (z >> 31)) % below;
    };
    int accepted = 0;
    for (int round = 0; round < 3000; ++round) {
        std::vector<std::byte> prefix(content.begin(), content.begin() + static_cast<std::ptrdiff_t>(length));
        // Small numbers and boundary values in any place of the manifest, then the publisher signs it.
        for (std::uint64_t i = 0; i <= random(3); ++i) {
            static constexpr unsigned char kValues[] = {0, 1, 2, 0x0f, 0x10, 0x7f, 0x80, 0xff};
            prefix[kHeaderBytes + random(length - kHeaderBytes)] = static_cast<std::byte>(kValues[random(8)]);
        }
        resign(prefix, publisher_);
        const auto parsed = parse(prefix, content.size());
        if (!parsed) continue;
        ++accepted; // a tag, a key or the id: no number that anything is computed from
        EXPECT_EQ(parsed->chunks.size(), good.chunks.size());
        EXPECT_EQ(parsed->groups.size(), good.groups.size());
        EXPECT_EQ(parsed->file_bytes, content.size());
        EXPECT_EQ(parsed->chunk_offset(static_cast<std::uint32_t>(parsed->chunks.size())), content.size());
    }
    EXPECT_GT(accepted, 0);
    EXPECT_LT(accepted, 3000);
}

TEST_F(PackageTest, a_wrapped_key_moved_to_another_package_does_not_open) {
    Manifest a = seal(1);
    const auto device_key = device_->device_key(port::kPackageKeyLabel).value();
    ASSERT_TRUE(unwrap_key(a, device_key).ok());
    a.version = 2;
    EXPECT_FALSE(unwrap_key(a, device_key).ok());
    a.version = 1;
    a.id[0] ^= std::byte{1};
    EXPECT_FALSE(unwrap_key(a, device_key).ok());
}

TEST_F(PackageTest, a_failed_sealing_leaves_the_old_package) {
    seal(1);
    const auto before = bytes_of_file(path());
    auto o = options(2);
    o.source = folder_.path() + "/broken.gguf";
    auto broken = bytes_of_file(kSource);
    broken.resize(broken.size() / 2);
    ASSERT_TRUE(put(o.source, broken));
    EXPECT_FALSE(package::seal(o, publisher_).ok());
    EXPECT_EQ(bytes_of_file(path()), before);
    EXPECT_FALSE(fs::exists(path() + ".part"));
}

TEST_F(PackageTest, a_disk_that_is_full_is_an_error_and_nothing_is_left) {
    auto o = options();
    o.target = "/dev/full/m.flex";
    const auto sealed = package::seal(o, publisher_);
    ASSERT_FALSE(sealed.ok());
    EXPECT_EQ(sealed.error().code, ErrorCode::kIo);
}

TEST_F(PackageTest, the_version_of_a_package_can_be_read_without_keys) {
    EXPECT_EQ(version_of(path()), 0u);
    seal(1234567890123);
    EXPECT_EQ(version_of(path()), 1234567890123u);
}

TEST(Metadata, damage_is_refused_at_every_length) {
    const std::vector<std::byte> header(100, std::byte{7});
    const TensorPlace places[] = {{"a", 0, 0, 64}, {"bb", 1, 64, 10}};
    const std::vector<std::byte> form(7, std::byte{9});
    const auto content = format_metadata(header, 5000, form, places);
    Metadata out;
    ASSERT_TRUE(parse_metadata(content, out).ok());
    EXPECT_EQ(out.places.size(), 2u);
    EXPECT_EQ(out.places[1].name, "bb");
    EXPECT_EQ(out.source_bytes, 5000u);
    EXPECT_TRUE(std::ranges::equal(out.chat_form, form));
    for (std::size_t length = 0; length < content.size(); ++length) {
        Metadata cut;
        EXPECT_FALSE(parse_metadata(crypto::Bytes(content).first(length), cut).ok()) << length;
    }
    auto huge = content;
    for (int i = 0; i < 8; ++i)
        huge[static_cast<std::size_t>(i)] = std::byte{0xff}; // header of 2^64 - 1 bytes
    Metadata refused;
    EXPECT_FALSE(parse_metadata(huge, refused).ok());
}

} // namespace
} // namespace flex::package
