// Logits and greedy continuations of llama.cpp for tiny random models, from the data folder beside the
// repository.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "engine/kernels/kernels.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/thread_pool.h"

namespace flex::engine {
namespace {

std::string golden_folder() {
    const char* shared = std::getenv("FLEX_SHARED_DIR");
    return (shared != nullptr ? std::string(shared) : std::string(FLEX_SOURCE_DIR "/../shared")) +
           "/data/golden/";
}

std::vector<char> read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

class Golden : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::Values("llama-a", "qwen3-a", "qwen3-f16"),
                         [](const auto& info) {
                             std::string name = info.param;
                             for (char& c : name) c = c == '-' ? '_' : c;
                             return name;
                         });

TEST_P(Golden, logits_and_greedy_continuation_agree_with_llama_cpp) {
    const std::string path = golden_folder() + GetParam();
    const std::vector<char> file = read(path + ".gguf"), text = read(path + ".json");
    if (file.empty() || text.empty()) GTEST_SKIP() << "no golden data in " << golden_folder();
    const auto expected = nlohmann::json::parse(text, nullptr, false);
    ASSERT_FALSE(expected.is_discarded());
    const auto bytes = std::as_bytes(std::span(file));
    const auto gguf = Gguf::parse(bytes);
    ASSERT_TRUE(gguf.ok()) << gguf.error().message;
    const auto model = Model::from_gguf(*gguf, bytes);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const auto prompt = expected["prompt"].get<std::vector<TokenId>>();
    ThreadPool pool(2);
    for (const Kernels* kernels : available_kernels()) {
        auto session = Session::create(*model, pool, {.kernels = kernels, .kv = KvType::kF32});
        ASSERT_TRUE(session.ok());
        std::vector<std::uint32_t> positions;
        for (const auto& row : expected["logits"]) positions.push_back(row["pos"]);
        const auto logits = (*session)->logits(prompt, positions);
        ASSERT_TRUE(logits.ok());
        float worst = 0;
        for (std::size_t i = 0; i < positions.size(); ++i) {
            const auto values = expected["logits"][i]["values"].get<std::vector<float>>();
            ASSERT_EQ(values.size(), model->shape().vocabulary);
            for (std::size_t v = 0; v < values.size(); ++v) {
                worst = std::max(worst, std::fabs(values[v] - (*logits)[i * values.size() + v]));
            }
        }
        EXPECT_LE(worst, 2e-2F) << kernels->name;

        (*session)->rewind(0);
        std::vector<TokenId> answer;
        auto next = (*session)->prefill(prompt);
        const auto wanted = expected["greedy"].get<std::vector<TokenId>>();
        while (answer.size() < wanted.size()) {
            ASSERT_TRUE(next.ok());
            answer.push_back(*greedy(*next));
            next = (*session)->decode(answer.back());
        }
        EXPECT_EQ(answer, wanted) << kernels->name;
    }
}

} // namespace
} // namespace flex::engine
