// A random model together with the file it points into, and what tests of sessions do with it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "engine/session.h"
#include "engine/tests/random_model.h"

namespace flex::engine::testing {

using Tokens = std::vector<TokenId>;

struct Loaded {
    std::vector<std::byte> file;
    Model model;
};

inline std::unique_ptr<Loaded> load(const RandomModel& kind) {
    auto out = std::make_unique<Loaded>();
    out->file = kind.build();
    const auto gguf = Gguf::parse(out->file);
    EXPECT_TRUE(gguf.ok()) << gguf.error().message;
    auto model = Model::from_gguf(*gguf, out->file);
    EXPECT_TRUE(model.ok()) << model.error().message;
    out->model = std::move(model).value();
    return out;
}

inline Tokens prompt(std::size_t length, std::uint32_t vocabulary = 97, std::size_t salt = 1) {
    Tokens out;
    for (std::size_t i = 0; i < length; ++i)
        out.push_back(static_cast<TokenId>((i * i * 7 + 3 * i + salt) % vocabulary));
    return out;
}

inline std::vector<float> copy(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

inline std::vector<float> copy(const Result<std::span<const float>>& logits) {
    EXPECT_TRUE(logits.ok()) << (logits.ok() ? "" : logits.error().message);
    return logits.ok() ? copy(*logits) : std::vector<float>();
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return !a.empty() && a.size() == b.size() &&
           std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

} // namespace flex::engine::testing
