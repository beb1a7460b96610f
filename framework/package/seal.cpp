#include "package/seal.h"

#include <algorithm>

#include "engine/model.h"
#include "engine/packing.h"
#include "package/convert.h"
#include "package/package.h"
#include "port/files.h"
#include "tokenizer/tokenizer.h"

namespace flex::package {
namespace {

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; }

/// Cuts a stream of clear text into chunks, encrypts each and writes it where it belongs.
class ChunkWriter {
public:
    ChunkWriter(Manifest& manifest, crypto::Aead aead, port::NewFile& file, const SealOptions& options)
        : manifest_(manifest), aead_(std::move(aead)), file_(file), options_(options),
          offset_(manifest.data_offset) {
        buffer_.reserve(manifest.chunk_bytes);
    }

    /// `read(offset, out)` provides the clear text of the group from `offset`.
    template <class Read> Status write_group(std::uint32_t index, const Read& read) {
        const Group& group = manifest_.groups[index];
        std::uint64_t at = 0;
        for (std::uint32_t i = group.first_chunk; i < group.first_chunk + group.chunk_count; ++i) {
            Chunk& chunk = manifest_.chunks[i];
            buffer_.assign(chunk.bytes, std::byte{0});
            FLEX_TRY(read(at, std::span(buffer_)));
            FLEX_TRY(
                aead_.seal(chunk_nonce(i), chunk_associated_data(manifest_, i), buffer_, buffer_, chunk.tag));
            FLEX_TRY(file_.write(offset_, buffer_));
            offset_ += chunk.bytes;
            at += chunk.bytes;
            if (options_.progress) options_.progress(offset_, manifest_.file_bytes);
        }
        return {};
    }

private:
    Manifest& manifest_;
    crypto::Aead aead_;
    port::NewFile& file_;
    const SealOptions& options_;
    std::uint64_t offset_;
    std::vector<std::byte> buffer_;
};

/// The tensors of each stage in order of use, and the bytes of each stage.
struct Layout {
    std::vector<TensorPlace> places; // parallel to Model::tensors()
    std::vector<std::uint64_t> stage_bytes;
};

Layout lay_out(const engine::Model& model) {
    Layout layout;
    layout.stage_bytes.assign(model.stages(), 0);
    for (const engine::TensorNeed& need : model.tensors()) {
        std::uint64_t& end = layout.stage_bytes[need.stage];
        const std::uint64_t offset = round_up(end, kTensorAlignment);
        layout.places.push_back({need.name, need.stage, offset, need.bytes});
        end = offset + need.bytes;
    }
    return layout;
}

void add_group(Manifest& m, GroupKind kind, std::uint32_t stage, std::uint64_t bytes) {
    Group group{kind, stage, static_cast<std::uint32_t>(m.chunks.size()), 0};
    // A stage without tensors of its own still has its place in the order.
    for (std::uint64_t left = std::max(round_up(bytes, kAlignment), kAlignment); left > 0;
         ++group.chunk_count) {
        const auto size = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, m.chunk_bytes));
        m.chunks.push_back({size, static_cast<std::uint32_t>(m.groups.size()), {}});
        left -= size;
    }
    m.groups.push_back(group);
}

Result<Manifest> plan(const SealOptions& options, const Layout& layout, std::size_t metadata_bytes) {
    Manifest m;
    FLEX_TRY(crypto::random(m.id));
    m.version = options.version;
    m.cipher = options.cipher;
    m.chunk_bytes = options.chunk_bytes;
    m.device = options.device;
    m.name = options.name;
    add_group(m, GroupKind::kMetadata, 0, metadata_bytes);
    for (std::uint32_t stage = 0; stage < layout.stage_bytes.size(); ++stage) {
        add_group(m, GroupKind::kStage, stage, layout.stage_bytes[stage]);
    }
    if (m.groups.size() > kMaxGroups || m.chunks.size() > kMaxChunks) {
        return fail(ErrorCode::kUnsupported, "the model is too large for a package with chunks of " +
                                                 std::to_string(m.chunk_bytes) + " bytes");
    }
    m.data_offset = round_up(serialized_bytes(m), kAlignment);
    m.file_bytes = m.data_offset;
    for (const Chunk& chunk : m.chunks) m.file_bytes += chunk.bytes;
    return m;
}

/// Fills `out` (zeroed) with what lies at `at` in a stage's clear text: whole tensors, parts, padding.
Status read_stage(const ModelFile& source, const engine::Model& model, const Layout& layout,
                  std::uint32_t stage, std::uint64_t at, std::span<std::byte> out) {
    const auto needs = model.tensors();
    for (std::size_t i = 0; i < needs.size(); ++i) {
        const TensorPlace& place = layout.places[i];
        if (place.stage != stage) continue;
        const std::uint64_t begin = std::max(at, place.offset);
        const std::uint64_t end = std::min(at + out.size(), place.offset + place.bytes);
        if (begin >= end) continue;
        const auto read = [&](std::uint64_t offset, std::span<std::byte> to) {
            return source.read(needs[i].file_offset + offset, to);
        };
        FLEX_TRY(
            engine::read_tensor(needs[i], begin - place.offset, out.subspan(begin - at, end - begin), read));
    }
    return {};
}

Status check_options(const SealOptions& options) {
    if (!is_valid_name(options.name)) {
        return fail(ErrorCode::kInvalidArgument,
                    "\"" + options.name +
                        "\" cannot name a model: use 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot");
    }
    if (options.chunk_bytes < kMinChunkBytes || options.chunk_bytes > kMaxChunkBytes ||
        options.chunk_bytes % kAlignment != 0) {
        return fail(ErrorCode::kInvalidArgument, "chunks must have 64 KiB to 16 MiB, a multiple of 4 KiB");
    }
    return {};
}

Status write_package(const SealOptions& options, const ModelFile& source, const engine::Model& model,
                     const Layout& layout, crypto::Bytes metadata, Manifest& manifest,
                     const crypto::Secret32& publisher_key) {
    FLEX_ASSIGN(const auto content_key, crypto::random_secret());
    FLEX_TRY(wrap_key(manifest, content_key));
    FLEX_ASSIGN(auto aead, crypto::Aead::create(manifest.cipher, content_key));
    FLEX_ASSIGN(auto file, port::NewFile::create(options.target));
    ChunkWriter writer(manifest, std::move(aead), file, options);
    FLEX_TRY(writer.write_group(0, [&](std::uint64_t at, std::span<std::byte> out) -> Status {
        if (at < metadata.size())
            std::ranges::copy(metadata.subspan(at, std::min(out.size(), metadata.size() - at)), out.begin());
        return {};
    }));
    for (std::uint32_t stage = 0; stage < model.stages(); ++stage) {
        FLEX_TRY(writer.write_group(stage + 1, [&](std::uint64_t at, std::span<std::byte> out) {
            return read_stage(source, model, layout, stage, at, out);
        }));
    }
    FLEX_ASSIGN(const auto prefix, serialize(manifest, publisher_key));
    FLEX_TRY(file.write(0, prefix));
    return file.commit();
}

} // namespace

Result<SealResult> seal(const SealOptions& options, const crypto::Secret32& publisher_key) {
    FLEX_TRY(check_options(options));
    FLEX_ASSIGN(const ModelFile source, ModelFile::open(options.source));
    FLEX_ASSIGN(const auto gguf, engine::Gguf::parse(source.header(), source.size()));
    FLEX_ASSIGN(const auto model, engine::Model::plan(gguf));
    FLEX_ASSIGN(const auto tokenizer, tokenizer::Tokenizer::create(gguf));
    if (tokenizer.size() != model.shape().vocabulary) {
        return fail(ErrorCode::kCorrupt, "the tokenizer has " + std::to_string(tokenizer.size()) +
                                             " tokens, the model " +
                                             std::to_string(model.shape().vocabulary));
    }
    const Layout layout = lay_out(model);
    const auto metadata = format_metadata(source.header(), source.size(), options.chat_form, layout.places);
    SealResult result;
    FLEX_ASSIGN(result.manifest, plan(options, layout, metadata.size()));
    FLEX_TRY(write_package(options, source, model, layout, metadata, result.manifest, publisher_key));
    result.model_name = model.name();
    result.conversions = source.conversions();
    result.tensors = layout.places.size();
    return result;
}

} // namespace flex::package
