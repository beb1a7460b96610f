// Any text -> tokens -> the same text; plain text never gives a special token. The first byte chooses the
// vocabulary; a GGUF file (it begins with the magic) is read as a vocabulary itself.
#include <cstdlib>

#include "engine/gguf.h"
#include "tokenizer/tests/toy_vocabulary.h"
#include "tokenizer/tokenizer.h"

using namespace flex::tokenizer;

namespace {

Tokenizer make(const char* pre) {
    flex::tokenizer::testing::ToyVocabulary vocabulary;
    vocabulary.pre = pre;
    const auto bytes = vocabulary.builder().build();
    return Tokenizer::create(flex::engine::Gguf::parse(bytes).value()).value();
}

void check(const Tokenizer& tokenizer, std::string_view text, bool complete) {
    const auto ids = tokenizer.encode(text);
    for (const auto id : ids) {
        if (id >= tokenizer.size()) std::abort();
    }
    if (complete && tokenizer.decode(ids) != text) std::abort();
    const auto parsed = tokenizer.encode(text, Specials::kParse);
    if (complete && tokenizer.decode(parsed, true) != text) std::abort();
    Detokenizer shown(tokenizer);
    for (const auto id : ids) static_cast<void>(shown.push(id));
    static_cast<void>(shown.finish());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    static const Tokenizer qwen = make("qwen2"), llama = make("llama-bpe");
    if (size == 0) return 0;
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
    if (const auto gguf = flex::engine::Gguf::parse(bytes)) {
        if (const auto own = Tokenizer::create(*gguf))
            check(*own, "the lower <|im_start|> \xff aaaa 123", false);
        return 0;
    }
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const Tokenizer& tokenizer = data[0] % 2 == 0 ? qwen : llama;
    check(tokenizer, text, true);
    const auto first_special = *tokenizer.special("<|endoftext|>");
    for (const auto id : tokenizer.encode(text)) {
        if (id >= first_special) std::abort();
    }
    return 0;
}
