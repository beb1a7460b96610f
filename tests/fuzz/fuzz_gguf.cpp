// A GGUF file -> header, plan of the model. Every tensor that is reported must lie within the file.
#include <cstdlib>

#include "engine/gguf.h"
#include "engine/model.h"

using flex::engine::Gguf;

namespace {

void check(const Gguf& gguf, std::size_t size) {
    for (const auto& tensor : gguf.tensors()) {
        if (tensor.offset > size || tensor.bytes > size - tensor.offset) std::abort();
        if (tensor.offset < gguf.data_offset() || gguf.data_offset() > size) std::abort();
    }
    const auto model = flex::engine::Model::plan(gguf);
    if (!model.ok()) return;
    for (const auto& need : model->tensors()) {
        const auto* tensor = gguf.tensor(need.name);
        if (tensor == nullptr || tensor->dims[0] != need.columns || tensor->dims[1] != need.rows)
            std::abort();
    }
}

} // namespace

/// The input is a header; the tensor data behind it, which nobody reads here, is only claimed to be there.
extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    constexpr std::size_t kClaimed = 64 << 10;
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
    const auto types = size % 2 == 0 ? flex::engine::StoredTypes::kEngine : flex::engine::StoredTypes::kAll;
    if (const auto gguf = Gguf::parse(bytes, size + kClaimed, types)) check(*gguf, size + kClaimed);
    return 0;
}
