#include "package/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

#include "engine/kernels/exact.h"
#include "engine/model.h"
#include "engine/tests/gguf_builder.h"
#include "engine/tests/random_model.h"
#include "temporary_folder.h"

namespace flex::package {
namespace {

using engine::StoredType;
using engine::testing::GgufBuilder;
using Bytes = std::vector<std::byte>;

/// A block written from the numbers it means, and these numbers.
struct Block {
    Bytes bytes;
    std::vector<float> values;
};

void put_half(Bytes& to, std::size_t at, float value) {
    const std::uint16_t half = engine::f32_to_f16(value);
    std::memcpy(to.data() + at, &half, sizeof half);
}

void add_bits(Bytes& to, std::size_t at, unsigned bits) { to[at] |= static_cast<std::byte>(bits); }

Block q4_0(std::mt19937& random) {
    Block b{Bytes(18), std::vector<float>(32)};
    const float d = 0.25F;
    put_half(b.bytes, 0, d);
    for (unsigned i = 0; i < 32; ++i) {
        const unsigned q = random() % 16;
        add_bits(b.bytes, 2 + i % 16, i < 16 ? q : q << 4);
        b.values[i] = d * (static_cast<float>(q) - 8);
    }
    return b;
}

/// Eight scales and minima of 6 bits into 12 bytes, bit by bit as the format's table has them.
void put_scales(Bytes& to, std::size_t at, const unsigned (&scales)[8], const unsigned (&mins)[8]) {
    for (unsigned i = 0; i < 4; ++i) {
        add_bits(to, at + i, scales[i]);
        add_bits(to, at + 4 + i, mins[i]);
        add_bits(to, at + 8 + i, (scales[4 + i] & 15) | (mins[4 + i] & 15) << 4);
        add_bits(to, at + i, scales[4 + i] >> 4 << 6);
        add_bits(to, at + 4 + i, mins[4 + i] >> 4 << 6);
    }
}

Block q4_or_5_k(std::mt19937& random, bool five) {
    Block b{Bytes(five ? 176 : 144), std::vector<float>(256)};
    const float d = 0.5F, dmin = -0.125F;
    put_half(b.bytes, 0, d);
    put_half(b.bytes, 2, dmin);
    unsigned scales[8], mins[8];
    for (unsigned i = 0; i < 8; ++i) {
        scales[i] = random() % 64;
        mins[i] = random() % 64;
    }
    put_scales(b.bytes, 4, scales, mins);
    const std::size_t nibbles = five ? 48 : 16;
    for (unsigned i = 0; i < 256; ++i) {
        const unsigned q = random() % (five ? 32 : 16), sub = i / 32;
        add_bits(b.bytes, nibbles + i / 64 * 32 + i % 32, sub % 2 == 0 ? q & 15 : (q & 15) << 4);
        if (five) add_bits(b.bytes, 16 + i % 32, (q >> 4) << sub);
        b.values[i] = d * static_cast<float>(scales[sub]) * static_cast<float>(q) -
                      dmin * static_cast<float>(mins[sub]);
    }
    return b;
}

Block q6_k(std::mt19937& random) {
    Block b{Bytes(210), std::vector<float>(256)};
    const float d = 0.0625F;
    put_half(b.bytes, 208, d);
    int scales[16];
    for (unsigned i = 0; i < 16; ++i) {
        scales[i] = static_cast<int>(random() % 256) - 128;
        b.bytes[192 + i] = static_cast<std::byte>(scales[i]);
    }
    for (unsigned i = 0; i < 256; ++i) {
        const unsigned q = random() % 64, half = i / 128, in_half = i % 128;
        add_bits(b.bytes, half * 64 + in_half % 64, in_half < 64 ? q & 15 : (q & 15) << 4);
        add_bits(b.bytes, 128 + half * 32 + i % 32, (q >> 4) << (in_half / 32 * 2));
        b.values[i] = d * static_cast<float>(scales[i / 16]) * (static_cast<float>(q) - 32);
    }
    return b;
}

Block block_of(StoredType type, std::mt19937& random) {
    switch (type) {
    case StoredType::kQ4_0:
        return q4_0(random);
    case StoredType::kQ4_K:
        return q4_or_5_k(random, false);
    case StoredType::kQ5_K:
        return q4_or_5_k(random, true);
    default:
        return q6_k(random);
    }
}

constexpr StoredType kConverted[] = {StoredType::kQ4_0, StoredType::kQ4_K, StoredType::kQ5_K,
                                     StoredType::kQ6_K};

TEST(Convert, blocks_mean_what_the_format_says) {
    std::mt19937 random(1);
    for (const StoredType type : kConverted) {
        for (int round = 0; round < 50; ++round) {
            const Block block = block_of(type, random);
            ASSERT_EQ(block.bytes.size(), engine::block_bytes(type));
            std::vector<float> out(block.values.size());
            dequantize(type, block.bytes, out);
            for (std::size_t i = 0; i < out.size(); ++i)
                ASSERT_EQ(out[i], block.values[i]) << engine::name_of(type) << " element " << i;
        }
    }
}

TEST(Convert, q8_0_is_within_half_a_step) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal(0, 3);
    for (int round = 0; round < 200; ++round) {
        std::array<float, 32> x;
        for (float& value : x) value = normal(random);
        std::array<std::byte, 34> block;
        ASSERT_TRUE(quantize_q8_0(x, block));
        std::uint16_t half;
        std::memcpy(&half, block.data(), 2);
        const float d = engine::f16_to_f32(half);
        for (std::size_t i = 0; i < 32; ++i)
            EXPECT_NEAR(d * static_cast<float>(static_cast<std::int8_t>(block[2 + i])), x[i], d * 0.57F);
    }
    std::array<float, 32> x{};
    std::array<std::byte, 34> block;
    EXPECT_TRUE(quantize_q8_0(x, block));
    EXPECT_EQ(block, (std::array<std::byte, 34>{}));
    x[3] = INFINITY;
    EXPECT_FALSE(quantize_q8_0(x, block));
    x[3] = NAN;
    EXPECT_FALSE(quantize_q8_0(x, block));
    x[3] = 1e9F; // its scale is beyond f16
    EXPECT_FALSE(quantize_q8_0(x, block));
}

class ModelFileTest : public ::testing::Test {
protected:
    /// One tensor of each type with 3 rows of 512, between F32 ones that stay.
    GgufBuilder builder() {
        std::mt19937 random(3);
        GgufBuilder out;
        out.string("general.architecture", "llama");
        for (const StoredType type : kConverted) {
            Bytes data;
            std::vector<float> values;
            for (unsigned i = 0; i < 3 * 512 / engine::block_elements(type); ++i) {
                const Block block = block_of(type, random);
                data.insert(data.end(), block.bytes.begin(), block.bytes.end());
                values.insert(values.end(), block.values.begin(), block.values.end());
            }
            const std::string name = engine::name_of(type);
            out.tensor(name, {512, 3}, static_cast<engine::TensorType>(type), data);
            out.tensor(name + ".norm", {3}, engine::TensorType::kF32,
                       Bytes(12, std::byte{static_cast<unsigned char>(type)}));
            expected_[name] = values;
        }
        return out;
    }
    ModelFile open(const Bytes& bytes) {
        EXPECT_TRUE(port::write_file(path_, bytes).ok());
        return ModelFile::open(path_).value();
    }
    static Bytes read_all(const ModelFile& file) {
        Bytes out(file.size());
        EXPECT_TRUE(file.read(0, out).ok());
        return out;
    }
    test::TemporaryFolder folder_;
    std::string path_ = folder_.path() + "/m.gguf";
    std::map<std::string, std::vector<float>> expected_;
};

TEST_F(ModelFileTest, a_file_of_small_types_reads_as_one_of_q8_0) {
    const ModelFile file = open(builder().build());
    EXPECT_EQ(file.conversions(), "1 tensors from Q4_0, 1 from Q4_K, 1 from Q5_K, 1 from Q6_K");
    const Bytes whole = read_all(file);
    const auto gguf = engine::Gguf::parse(whole); // strict: nothing but the engine's types
    ASSERT_TRUE(gguf.ok()) << gguf.error().message;
    EXPECT_TRUE(std::ranges::equal(std::span(whole).first(gguf->data_offset()), file.header()));
    for (const auto& [name, values] : expected_) {
        const engine::GgufTensor& tensor = *gguf->tensor(name);
        ASSERT_EQ(tensor.type, engine::TensorType::kQ8_0);
        for (std::size_t i = 0; i < values.size(); ++i) {
            const std::byte* block = whole.data() + tensor.offset + i / 32 * 34;
            std::uint16_t half;
            std::memcpy(&half, block, 2);
            const float d = engine::f16_to_f32(half);
            ASSERT_NEAR(d * static_cast<float>(static_cast<std::int8_t>(block[2 + i % 32])), values[i],
                        d * 0.57F)
                << name << " element " << i;
        }
        const engine::GgufTensor& norm = *gguf->tensor(name + ".norm");
        EXPECT_EQ(norm.type, engine::TensorType::kF32);
        EXPECT_EQ(whole[norm.offset], whole[norm.offset + 11]);
        EXPECT_NE(whole[norm.offset], std::byte{0});
    }
}

TEST_F(ModelFileTest, any_part_reads_as_the_whole_does) {
    const ModelFile file = open(builder().build());
    const Bytes whole = read_all(file);
    std::mt19937 random(4);
    for (int round = 0; round < 500; ++round) {
        const std::size_t at = random() % whole.size(),
                          size = random() % std::min<std::size_t>(700, whole.size() - at + 1);
        Bytes part(size);
        ASSERT_TRUE(file.read(at, part).ok());
        ASSERT_TRUE(std::ranges::equal(part, std::span(whole).subspan(at, size))) << at << " " << size;
    }
    Bytes beyond(2);
    EXPECT_FALSE(file.read(whole.size() - 1, beyond).ok());
}

/// Against llama.cpp's own conversion of its own files, where FLEX_LLAMA_QUANTIZE names its llama-quantize.
TEST_F(ModelFileTest, files_of_llama_cpp_convert_byte_for_byte_as_its_own_tool_does) {
    const char* tool = std::getenv("FLEX_LLAMA_QUANTIZE");
    if (tool == nullptr) GTEST_SKIP() << "FLEX_LLAMA_QUANTIZE is not set";
    engine::testing::RandomModel model{.llama = true,
                                       .type = engine::TensorType::kF32,
                                       .layers = 2,
                                       .width = 256,
                                       .ff = 512,
                                       .head_size = 64};
    GgufBuilder plain = model.builder();
    plain.string("tokenizer.ggml.model", "none");
    ASSERT_TRUE(port::write_file(path_, plain.build()).ok());
    const std::string small = folder_.path() + "/small.gguf", q8 = folder_.path() + "/q8.gguf";
    for (const char* type : {"Q4_0", "Q4_K_S", "Q5_K_S", "Q6_K"}) {
        const std::string quiet = " >/dev/null 2>&1", run = tool;
        ASSERT_EQ(std::system((run + " --pure " + path_ + " " + small + " " + type + quiet).c_str()), 0);
        ASSERT_EQ(std::system((run + " --allow-requantize " + small + " " + q8 + " Q8_0" + quiet).c_str()),
                  0);
        const ModelFile ours = ModelFile::open(small).value();
        const Bytes whole = read_all(ours);
        const auto theirs = port::MappedFile::open(q8).value();
        const auto a = engine::Gguf::parse(whole).value(), b = engine::Gguf::parse(theirs.bytes()).value();
        std::size_t compared = 0;
        for (const engine::GgufTensor& tensor : a.tensors()) {
            const engine::GgufTensor* other = b.tensor(tensor.name);
            ASSERT_NE(other, nullptr);
            ASSERT_EQ(other->bytes, tensor.bytes);
            EXPECT_TRUE(std::ranges::equal(std::span(whole).subspan(tensor.offset, tensor.bytes),
                                           theirs.bytes().subspan(other->offset, tensor.bytes)))
                << type << " " << tensor.name;
            compared += tensor.type == engine::TensorType::kQ8_0 ? 1 : 0;
        }
        EXPECT_EQ(compared, 15u);
        EXPECT_NE(ours.conversions(), "");
    }
}

TEST_F(ModelFileTest, a_file_of_the_engines_types_reads_as_it_is) {
    GgufBuilder b;
    b.string("general.architecture", "llama")
        .tensor("a", {32}, engine::TensorType::kQ8_0, Bytes(34, std::byte{7}));
    const Bytes bytes = b.build();
    const ModelFile file = open(bytes);
    EXPECT_EQ(file.conversions(), "");
    EXPECT_EQ(read_all(file), bytes);
}

TEST_F(ModelFileTest, a_weight_that_is_no_number_is_refused_by_name) {
    GgufBuilder b;
    Bytes block(18);
    block[1] = std::byte{0x7e}; // d = NaN
    b.tensor("bad", {32}, static_cast<engine::TensorType>(StoredType::kQ4_0), block);
    const ModelFile file = open(b.build());
    Bytes out(file.size());
    const auto status = file.read(0, out);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("'bad'"), std::string::npos);
}

TEST_F(ModelFileTest, the_engine_itself_says_what_to_do_with_such_a_file) {
    const auto refused = engine::Gguf::parse(builder().build());
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find("is Q4_0; seal the file"), std::string::npos)
        << refused.error().message;
    GgufBuilder odd;
    odd.raw_tensor("a", {32}, 19, 0); // IQ1_S
    const auto bytes = odd.build();
    EXPECT_NE(
        engine::Gguf::parse(bytes, bytes.size(), engine::StoredTypes::kAll).error().message.find("type 19"),
        std::string::npos);
}

} // namespace
} // namespace flex::package
