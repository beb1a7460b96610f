// fuzz_seeds FOLDER: writes a small seed corpus for each fuzzer to FOLDER/NAME/.
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "engine/tests/random_model.h"
#include "memory/kv_index.h"
#include "package/manifest.h"
#include "package/package.h"
#include "port/files.h"
#include "tokenizer/chat_form.h"
#include "tests/fuzz/npu_input.h"
#include "tokenizer/tests/toy_vocabulary.h"

using namespace flex;

namespace {

std::filesystem::path folder;

void write(const std::string& name, std::span<const std::byte> content) {
    const auto path = folder / name;
    std::filesystem::create_directories(path.parent_path());
    if (!port::write_file(path.string(), content)) std::fprintf(stderr, "cannot write %s\n", path.c_str());
}
void write(const std::string& name, std::string_view text) { write(name, std::as_bytes(std::span(text))); }

/// Without the tensor data.
std::vector<std::byte> header_of(const engine::testing::GgufBuilder& builder) {
    std::vector<std::byte> bytes = builder.build();
    if (const auto gguf = engine::Gguf::parse(bytes, bytes.size(), engine::StoredTypes::kAll))
        bytes.resize(gguf->data_offset());
    return bytes;
}

void gguf() {
    engine::testing::RandomModel tiny{
        .layers = 1, .width = 32, .ff = 32, .heads = 1, .kv_heads = 1, .head_size = 32, .vocabulary = 8};
    write("fuzz_gguf/qwen3", header_of(tiny.builder()));
    tiny.llama = tiny.rope_factors = true;
    tiny.tied = false;
    write("fuzz_gguf/llama", header_of(tiny.builder()));
    engine::testing::GgufBuilder yarn = tiny.builder();
    yarn.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
    write("fuzz_gguf/yarn", header_of(yarn));
    engine::testing::GgufBuilder small;
    small.u32("general.alignment", 8)
        .strings("a", {"b", ""})
        .array<std::int32_t>("c", engine::GgufValueType::kInt32, {1, 2});
    small.tensor("q", {256, 1}, static_cast<engine::TensorType>(12), std::vector<std::byte>(144));
    write("fuzz_gguf/values", header_of(small));
    write("fuzz_tokenizer/vocabulary", tokenizer::testing::ToyVocabulary().builder().build());
}

void manifest() {
    package::Manifest m;
    m.version = 1;
    m.name = "m";
    m.cipher = crypto::Cipher::kAes256Gcm;
    m.chunk_bytes = package::kMinChunkBytes;
    for (std::uint32_t i = 0; i < 3; ++i) {
        m.groups.push_back(
            {i == 0 ? package::GroupKind::kMetadata : package::GroupKind::kStage, i == 0 ? 0 : i - 1, i, 1});
        m.chunks.push_back({4096, i, {}});
    }
    m.data_offset = (package::serialized_bytes(m) + 4095) / 4096 * 4096;
    m.file_bytes = m.data_offset + 3 * 4096;
    const crypto::Secret32 key;
    const auto prefix = package::serialize(m, key);
    if (!prefix) return;
    std::vector<std::byte> seed(8);
    std::memcpy(seed.data(), &m.file_bytes, 8);
    seed.insert(seed.end(), prefix->begin() + package::kHeaderBytes, prefix->end());
    write("fuzz_manifest/three", seed);
    const package::TensorPlace places[] = {{"a", 0, 0, 64}, {"bb", 1, 64, 10}};
    const std::vector<std::byte> header(40), form(5);
    auto metadata = package::format_metadata(header, 5000, form, places);
    metadata.insert(metadata.begin(), 8, std::byte{0});
    write("fuzz_manifest/metadata", metadata);
}

void chat_form() {
    using namespace tokenizer;
    ChatForm form;
    form.masks[0] = kTools;
    form.masks[8] = kOpen;
    form.slots = {{SlotKind::kUser, 0, Transform::kStrip}, {SlotKind::kAssistant, 0, Transform::kQuoted}};
    form.texts = {{.before = "<u>"},
                  {.before = "<a>"},
                  {.before = "<t>", .has_tools = true, .between = ",", .after = ";"}};
    form.gaps = {{SlotKind::kBegin, 0, SlotKind::kUser, 0, 0},
                 {SlotKind::kBegin, kTools, SlotKind::kUser, 0, 2},
                 {SlotKind::kUser, 0, SlotKind::kAssistant, 0, 1},
                 {SlotKind::kUser, 0, SlotKind::kEnd, kOpen, 1}};
    form.finish();
    write("fuzz_chat_form/small", form.serialize());
}

void texts() {
    write("fuzz_tokenizer/words", "0The lower 123 \n\n <|im_start|>x's aaaa\t\xc3\xa9\xf0\x9f\x98\x80");
    write("fuzz_tokenizer/bytes", "1\xff\xfe  \r\n'LL <|eot_id|>");
    write(
        "fuzz_request/chat",
        R"({"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"x"}]},
{"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
{"role":"tool","content":"y"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"auto","temperature":0.5,"top_p":0.9,"top_k":3,
"min_p":0.1,"seed":-1,"stop":["a","b"],"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"5":-1.5},"logprobs":true,"top_logprobs":2,
"presence_penalty":1,"frequency_penalty":-1,"repeat_penalty":1.1,"max_tokens":5,"chat_template_kwargs":{"enable_thinking":false},"prompt_cache_key":"k"})");
    write("fuzz_request/completion",
          R"({"model":"m","prompt":[1,2,3],"echo":true,"logprobs":3,"return_tokens":true,"n":1})");
}

flex_npu_command npu_command(std::uint32_t op) {
    flex_npu_command c{};
    c.op = op;
    c.count = 3;
    c.rows = 20;
    c.columns = op == FLEX_NPU_ROPE ? 16 : 64;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_size = 32;
    c.layers = 2;
    c.block_bytes = 16 * FLEX_NPU_PAGE;
    c.block_list = 2;
    c.x = {0, 0, 0};
    c.y = {0, 0, 0x4000};
    c.z = {0, 0, 0x6000};
    c.w = {0, 0, 0x8000};
    if (op == FLEX_NPU_EMBED) c.x.offset = 0x14000;
    if (op == FLEX_NPU_KV_STORE || op == FLEX_NPU_ATTENTION) {
        c.w = {1, 0, 0};
        c.u.rows_of = {0, 0, 0x14000};
    }
    if (op == FLEX_NPU_SIGNAL || op == FLEX_NPU_WAIT) c.u.fence = {1, 0};
    return c;
}

void npu_inputs() {
    const auto input = [](fuzz::NpuMode mode, std::span<const std::byte> content) {
        std::vector<std::byte> bytes{static_cast<std::byte>(mode)};
        bytes.insert(bytes.end(), content.begin(), content.end());
        return bytes;
    };
    for (std::uint32_t op = FLEX_NPU_NOP; op <= FLEX_NPU_WAIT; ++op) {
        for (std::uint16_t kind = 0; kind < 3; ++kind) { // of the cache; flags elsewhere
            const bool cache = op == FLEX_NPU_KV_STORE || op == FLEX_NPU_ATTENTION;
            if (!cache && kind > 0 && op != FLEX_NPU_MATMUL) continue;
            flex_npu_command c = npu_command(op);
            if (cache)
                c.kv_type = kind;
            else
                c.flags = kind;
            std::vector<std::byte> commands(1 + sizeof c);
            std::memcpy(commands.data() + 1, &c, sizeof c);
            const std::string name = std::to_string(op) + "-" + std::to_string(kind);
            write("fuzz_npu/command-" + name, input(fuzz::NpuMode::kCommands, commands));
            if (kind > 0) continue;
            npu::model::testing::TestJob job;
            job.regions = {{fuzz::NpuMemory::table(0), fuzz::kRegionBytes},
                           {fuzz::NpuMemory::table(1), fuzz::kRegionBytes}};
            job.commands = {c};
            write("fuzz_npu/job-" + name, input(fuzz::NpuMode::kJob, job.bytes()));
        }
    }
    const std::uint32_t words[] = {FLEX_NPU_ACCESS(1, FLEX_NPU_REG_SRAM_ADDRESS) | FLEX_NPU_ACCESS_WRITE, 64, 0,
                                   FLEX_NPU_ACCESS(2, FLEX_NPU_REG_SRAM_DATA), 0, 0,
                                   FLEX_NPU_ACCESS(3, FLEX_NPU_REG_SCRATCH) | FLEX_NPU_ACCESS_WRITE, 7, 0};
    write("fuzz_npu/registers", input(fuzz::NpuMode::kRegisters, std::as_bytes(std::span(words))));
    // Descriptors of 16 bytes, at 256 the available ring, at 512 the used one.
    std::vector<std::byte> ring(600);
    const auto put = [&](std::size_t at, auto value) { std::memcpy(ring.data() + at, &value, sizeof value); };
    put(8, std::uint32_t{32});
    put(12, std::uint16_t{1}); // next
    put(14, std::uint16_t{1});
    put(24, std::uint32_t{64});
    put(28, std::uint16_t{2}); // written by the device
    put(258, std::uint16_t{2});
    put(262, std::uint16_t{1});
    write("fuzz_npu/ring", input(fuzz::NpuMode::kRing, ring));
}

void kv_index() {
    memory::KvIndex index{3, 9, {}};
    write("fuzz_kv_index/empty", memory::format_index(index));
    for (std::uint8_t i = 0; i < 2; ++i) {
        auto session = std::make_shared<memory::StoredSession>();
        session->id[0] = std::byte{i};
        session->binding.layout = {static_cast<engine::KvType>(i), 2, 1, 64};
        session->model = "demo";
        session->tokens.resize((i + 1u) * engine::kKvBlockTokens, 7);
        session->blocks.resize(i + 1u);
        index.sessions.push_back(session);
        write("fuzz_kv_index/text-" + std::to_string(i), memory::format_index(index));
    }
    const crypto::Secret32 zero;
    if (const auto file = memory::seal_index(index, zero, zero, crypto::Cipher::kAes256Gcm))
        write("fuzz_kv_index/file", *file);
}

} // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
        return 2;
    }
    folder = arguments[1];
    gguf();
    manifest();
    kv_index();
    chat_form();
    texts();
    npu_inputs();
    return 0;
}
