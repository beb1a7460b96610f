#include "engine/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/model.h"
#include "engine/tests/gguf_builder.h"
#include "engine/tests/random_model.h"

namespace flex::engine {
namespace {

using testing::GgufBuilder;
using testing::RandomModel;
using Bytes = std::vector<std::byte>;

Bytes some_bytes(std::size_t count) { return Bytes(count, std::byte{7}); }

GgufBuilder small() {
    GgufBuilder b;
    b.string("general.architecture", "llama").u32("a.number", 7).strings("a.list", {"one", "", "three"});
    b.tensor("first", {32, 2}, TensorType::kQ8_0, some_bytes(68))
        .tensor("second", {5}, TensorType::kF32, some_bytes(20));
    return b;
}

/// The one-line reason for which `bytes` is refused; empty if it is accepted.
std::string refusal(const Bytes& bytes) {
    const auto gguf = Gguf::parse(bytes);
    return gguf.ok() ? "" : gguf.error().message;
}

/// Touches everything a parsed header promises to be readable.
void walk(const Gguf& gguf, std::span<const std::byte> bytes) {
    for (const GgufTensor& tensor : gguf.tensors()) {
        ASSERT_LE(tensor.bytes, bytes.size());
        ASSERT_LE(tensor.offset, bytes.size() - tensor.bytes);
        ASSERT_EQ(gguf.tensor(tensor.name)->offset, tensor.offset);
    }
    for (const char* key : {"general.architecture", "a.number", "a.list"}) {
        (void)gguf.unsigned_value(key);
        (void)gguf.string_value(key);
        (void)gguf.integer_array(key);
        if (const auto list = gguf.string_array(key); list.ok() && list.value()) {
            std::size_t total = 0;
            for (const std::string_view text : *list.value()) total += text.size();
            ASSERT_LE(total, bytes.size());
        }
    }
}

TEST(Gguf, reads_back_what_was_written) {
    GgufBuilder b = small();
    b.f32("a.float", 0.5F)
        .boolean("a.flag", true)
        .value("a.wide", GgufValueType::kInt64, std::int64_t{1} << 40);
    b.array<std::int32_t>("a.numbers", GgufValueType::kInt32, {3, -4});
    const Bytes bytes = b.build();
    const auto parsed = Gguf::parse(bytes);
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    const Gguf& gguf = *parsed;
    EXPECT_EQ(gguf.string_value("general.architecture").value(), "llama");
    EXPECT_EQ(gguf.unsigned_value("a.number").value(), 7u);
    EXPECT_EQ(gguf.unsigned_value("a.wide").value(), 1ull << 40);
    EXPECT_EQ(gguf.float_value("a.float").value(), 0.5);
    EXPECT_EQ(gguf.bool_value("a.flag").value(), true);
    EXPECT_EQ(gguf.integer_array("a.numbers").value(), (std::vector<std::int64_t>{3, -4}));
    std::vector<std::string> list;
    const auto strings = gguf.string_array("a.list");
    ASSERT_TRUE(strings.ok());
    for (const auto text : **strings) list.emplace_back(text);
    EXPECT_EQ(list, (std::vector<std::string>{"one", "", "three"}));
    EXPECT_FALSE(gguf.unsigned_value("absent").value().has_value());
    ASSERT_EQ(gguf.tensors().size(), 2u);
    EXPECT_EQ(gguf.tensor("first")->bytes, 68u);
    EXPECT_EQ(gguf.tensor("second")->offset, gguf.data_offset() + 96);
    EXPECT_EQ(gguf.tensor("third"), nullptr);
}

TEST(Gguf, a_value_of_another_type_is_an_error_and_not_a_guess) {
    const Bytes bytes = small().build();
    const auto gguf = Gguf::parse(bytes);
    ASSERT_TRUE(gguf.ok());
    EXPECT_FALSE(gguf->string_value("a.number").ok());
    EXPECT_FALSE(gguf->unsigned_value("general.architecture").ok());
    EXPECT_FALSE(gguf->integer_array("a.list").ok());
    EXPECT_FALSE(gguf->string_array("a.number").ok());
    EXPECT_FALSE(gguf->bool_value("a.number").ok());
    EXPECT_FALSE(gguf->float_value("a.number").ok());
}

TEST(Gguf, the_header_is_enough_when_the_size_of_the_file_is_known) {
    const Bytes bytes = small().build();
    const auto whole = Gguf::parse(bytes);
    ASSERT_TRUE(whole.ok());
    const auto header = std::span(bytes).first(whole->data_offset());
    EXPECT_FALSE(Gguf::parse(header).ok());
    const auto parsed = Gguf::parse(header, bytes.size());
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    EXPECT_EQ(parsed->tensor("second")->offset, whole->tensor("second")->offset);
}

TEST(Gguf, every_truncation_is_refused) {
    const Bytes bytes = small().build();
    const std::size_t end = bytes.size() - 12; // the last tensor ends before its padding
    for (std::size_t n = 0; n < end; ++n) {
        EXPECT_FALSE(Gguf::parse(std::span(bytes).first(n)).ok())
            << "the first " << n << " bytes were accepted";
    }
}

TEST(Gguf, foreign_files_are_named_as_such) {
    GgufBuilder b = small();
    b.magic = 0x12345678;
    EXPECT_NE(refusal(b.build()).find("not a GGUF file"), std::string::npos);
    b = small();
    b.version = 2;
    EXPECT_NE(refusal(b.build()).find("version 2"), std::string::npos);
    b.version = 0x03000000; // big-endian 3
    EXPECT_NE(refusal(b.build()).find("not supported"), std::string::npos);
}

TEST(Gguf, absurd_counts_are_refused_before_anything_is_allocated_for_them) {
    for (const std::uint64_t extra : {1ull, 1000ull, 1ull << 32, (1ull << 63) + 5, ~0ull - 4}) {
        GgufBuilder b = small();
        b.extra_tensors = extra;
        EXPECT_NE(refusal(b.build()), "") << extra;
        b = small();
        b.extra_values = extra;
        EXPECT_NE(refusal(b.build()), "") << extra;
    }
    for (const auto element : {GgufValueType::kUint8, GgufValueType::kUint64, GgufValueType::kString}) {
        for (const std::uint64_t count : {1000ull, 1ull << 24, 1ull << 61, ~0ull}) {
            GgufBuilder b;
            b.begin_array("list", element, count);
            EXPECT_NE(refusal(b.build()), "") << count;
        }
    }
}

TEST(Gguf, string_lengths_that_wrap_around_are_refused) {
    for (const std::uint64_t length : {1ull << 20, 1ull << 63, ~0ull, ~0ull - 7}) {
        GgufBuilder b;
        b.value("text", GgufValueType::kString, length);
        EXPECT_NE(refusal(b.build()), "") << length;
    }
}

TEST(Gguf, confused_types_are_refused) {
    GgufBuilder b;
    b.value("x", static_cast<GgufValueType>(13), std::uint32_t{0});
    EXPECT_NE(refusal(b.build()).find("unknown type"), std::string::npos);
    b = {};
    b.begin_array("x", static_cast<GgufValueType>(99), 0);
    EXPECT_NE(refusal(b.build()).find("unknown type"), std::string::npos);
    b = {};
    b.begin_array("x", GgufValueType::kArray, 1);
    EXPECT_NE(refusal(b.build()).find("array of arrays"), std::string::npos);
    b = {};
    b.u32("x", 1).u32("x", 2);
    EXPECT_NE(refusal(b.build()).find("twice"), std::string::npos);
}

TEST(Gguf, impossible_tensors_are_refused) {
    const auto with = [](std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset) {
        GgufBuilder b = small();
        return refusal(b.raw_tensor("bad", std::move(dims), type, offset).build());
    };
    EXPECT_NE(with({}, 0, 0), "");                                 // no dimensions
    EXPECT_NE(with({1, 1, 1, 1, 1}, 0, 0), "");                    // five
    EXPECT_NE(with({0}, 0, 0), "");                                // zero
    EXPECT_NE(with({1ull << 33, 1ull << 33}, 0, 0), "");           // product wraps to 4
    EXPECT_NE(with({1ull << 32, 1ull << 32, 2, 2}, 0, 0), "");     // product wraps to 0
    EXPECT_NE(with({1ull << 62, 4}, 0, 0), "");                    // bytes wrap
    EXPECT_NE(with({33}, 8, 0), "");                               // half a block
    EXPECT_NE(with({8}, 2, 0), "");                                // Q4_0: not supported
    EXPECT_NE(with({8}, 0xffffffff, 0), "");                       // no such type
    EXPECT_NE(with({4}, 0, 1), "");                                // not aligned
    EXPECT_NE(with({4}, 0, 1ull << 40), "");                       // beyond the end
    EXPECT_NE(with({4}, 0, ~0ull - 31), "");                       // offset + size wraps
    EXPECT_NE(with({4}, 0, 0).find("overlap"), std::string::npos); // on top of "first"
    GgufBuilder twice = small();
    EXPECT_NE(refusal(twice.raw_tensor("first", {4}, 0, 0).build()).find("twice"), std::string::npos);
}

TEST(Gguf, only_sane_alignments_are_accepted) {
    for (const std::uint32_t alignment : {0u, 1u, 4u, 24u, 33u, 1u << 17, 0xffffffffu}) {
        GgufBuilder b = small();
        b.u32("general.alignment", alignment);
        EXPECT_NE(refusal(b.build()), "") << alignment;
    }
    GgufBuilder b;
    b.alignment = 64;
    b.u32("general.alignment", 64).tensor("t", {3}, TensorType::kF32, some_bytes(12));
    EXPECT_EQ(refusal(b.build()), "");
}

TEST(Gguf, messages_carry_no_control_characters_from_the_file) {
    GgufBuilder b;
    b.begin_array("evil\x1b[2J\n", GgufValueType::kArray, 1);
    for (const char c : refusal(b.build())) EXPECT_GE(c, 0x20);
}

TEST(Gguf, no_single_byte_can_make_it_point_outside) {
    const Bytes good = small().build();
    for (std::size_t at = 0; at < good.size(); ++at) {
        for (const unsigned char value : {0x00, 0x01, 0x09, 0x7f, 0x80, 0xff}) {
            Bytes bytes = good;
            bytes[at] = std::byte{value};
            if (const auto gguf = Gguf::parse(bytes); gguf.ok()) walk(*gguf, bytes);
        }
    }
}

TEST(Gguf, random_damage_ends_in_an_error_or_a_model_within_the_file) {
    const Bytes good =
        RandomModel{.layers = 1, .width = 32, .ff = 32, .heads = 1, .kv_heads = 1, .vocabulary = 32}.build();
    const std::size_t header = Gguf::parse(good)->data_offset();
    std::mt19937 random(42);
    for (int round = 0; round < 20000; ++round) {
        Bytes bytes = good;
        for (unsigned n = 1 + random() % 4; n > 0; --n) {
            const std::size_t at = random() % header;
            const std::uint64_t value = std::uint64_t{random()} << (random() % 33);
            std::memcpy(bytes.data() + at, &value, std::min<std::size_t>(1 + random() % 8, header - at));
        }
        if (random() % 4 == 0) bytes.resize(random() % bytes.size());
        const auto gguf = Gguf::parse(bytes);
        if (!gguf.ok()) continue;
        walk(*gguf, bytes);
        const auto model = Model::from_gguf(*gguf, bytes);
        if (!model.ok()) {
            EXPECT_FALSE(model.error().message.empty());
            continue;
        }
        for (const TensorNeed& need : model->tensors()) {
            ASSERT_LE(need.file_offset + need.file_bytes, bytes.size());
        }
    }
}

} // namespace
} // namespace flex::engine
