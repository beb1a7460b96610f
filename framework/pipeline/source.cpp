#include "pipeline/source.h"

#include <algorithm>
#include <chrono>

#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/packing.h"

namespace flex::pipeline {
namespace {

using package::LoadTimes;
using package::Metadata;

constexpr std::uint64_t kPage = 4096;

class PackageSource final : public WeightSource {
public:
    PackageSource(std::unique_ptr<package::Package> package, const std::string& store)
        : package_(std::move(package)), path_(store + "/" + package_->manifest().name + ".flex") {
        const package::Manifest& m = package_->manifest();
        info_ = {m.name, std::string("sealed, ") + crypto::name_of(m.cipher), m.version,
                 m.file_bytes - m.data_offset, m.id};
    }
    [[nodiscard]] const SourceInfo& info() const override { return info_; }
    [[nodiscard]] std::uint64_t claimed_version() const override { return package::version_of(path_); }
    Result<Metadata> metadata(LoadTimes& times) override { return package_->load_metadata(times); }
    [[nodiscard]] std::uint64_t stage_bytes(std::uint32_t stage) const override {
        const package::Manifest& m = package_->manifest();
        return stage + 1 < m.groups.size() ? m.group_bytes(m.groups[stage + 1]) : 0;
    }
    Result<memory::FlexBuffer> fetch(std::uint32_t stage, LoadTimes& times) override {
        return package_->fetch(stage + 1, times);
    }
    Status open(std::uint32_t stage, memory::FlexBuffer& buffer, LoadTimes& times) override {
        return package_->decrypt(stage + 1, buffer, times);
    }

private:
    std::unique_ptr<package::Package> package_;
    std::string path_;
    SourceInfo info_;
};

/// Reads tensors, packed, to the places a package would have given them.
class GgufSource final : public WeightSource {
public:
    GgufSource(port::Port& port, port::MappedFile file, std::string name, std::vector<std::byte> chat_form)
        : port_(port), file_(std::move(file)), chat_form_(std::move(chat_form)) {
        info_ = {std::move(name), "plain GGUF", 0, file_.bytes().size(), {}};
    }
    [[nodiscard]] const SourceInfo& info() const override { return info_; }
    [[nodiscard]] std::uint64_t claimed_version() const override { return info_.version; }

    Result<Metadata> metadata(LoadTimes& times) override {
        FLEX_ASSIGN(const auto gguf, engine::Gguf::parse(file_.bytes()));
        FLEX_ASSIGN(const auto model, engine::Model::plan(gguf));
        const auto begin = now();
        FLEX_ASSIGN(const auto block, port_.allocate(gguf.data_offset()));
        Metadata metadata;
        metadata.buffer = memory::FlexBuffer(port_, block);
        std::ranges::copy(file_.bytes().first(gguf.data_offset()), metadata.buffer.bytes().begin());
        metadata.header = metadata.buffer.bytes().first(gguf.data_offset());
        metadata.chat_form = chat_form_;
        metadata.source_bytes = file_.bytes().size();
        times.load_ns += now() - begin;
        stage_bytes_.assign(model.stages(), 0);
        for (const auto& need : model.tensors()) {
            std::uint64_t& end = stage_bytes_[need.stage];
            end =
                (end + package::kTensorAlignment - 1) / package::kTensorAlignment * package::kTensorAlignment;
            metadata.places.push_back({need.name, need.stage, end, need.bytes});
            needs_.push_back(need);
            end += need.bytes;
        }
        places_ = metadata.places;
        return metadata;
    }

    [[nodiscard]] std::uint64_t stage_bytes(std::uint32_t stage) const override {
        return std::max((stage_bytes_.at(stage) + kPage - 1) / kPage * kPage, kPage);
    }
    Result<memory::FlexBuffer> fetch(std::uint32_t stage, LoadTimes& times) override {
        const auto begin = now();
        FLEX_ASSIGN(const auto block, port_.allocate(stage_bytes(stage)));
        memory::FlexBuffer buffer(port_, block);
        const auto allocated = now();
        for (std::size_t i = 0; i < places_.size(); ++i) {
            if (places_[i].stage != stage) continue;
            const auto read = [&](std::uint64_t offset, std::span<std::byte> to) {
                return file_.file().read(needs_[i].file_offset + offset, to);
            };
            FLEX_TRY(engine::read_tensor(needs_[i], 0,
                                         buffer.bytes().subspan(places_[i].offset, places_[i].bytes), read));
        }
        times.allocate_ns += allocated - begin;
        times.load_ns += now() - allocated;
        return buffer;
    }
    Status open(std::uint32_t, memory::FlexBuffer&, LoadTimes&) override { return {}; }

private:
    static std::uint64_t now() {
        return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    }
    port::Port& port_;
    port::MappedFile file_;
    std::vector<std::byte> chat_form_;
    SourceInfo info_;
    std::vector<package::TensorPlace> places_;
    std::vector<engine::TensorNeed> needs_; // parallel to places_
    std::vector<std::uint64_t> stage_bytes_;
};

} // namespace

Result<std::unique_ptr<WeightSource>> open_package_source(port::Port& port, package::TrustStore& trust,
                                                          const std::string& name) {
    FLEX_ASSIGN(auto package, package::Package::open(port, trust, name));
    return std::unique_ptr<WeightSource>(
        std::make_unique<PackageSource>(std::move(package), port.store_folder()));
}

Result<std::unique_ptr<WeightSource>> open_gguf_source(port::Port& port, const std::string& path,
                                                       const std::string& name,
                                                       std::vector<std::byte> chat_form) {
    if (port.is_protected()) return fail(ErrorCode::kUnsupported, "the device runs sealed packages only");
    FLEX_ASSIGN(auto file, port::MappedFile::open(path));
    return std::unique_ptr<WeightSource>(
        std::make_unique<GgufSource>(port, std::move(file), name, std::move(chat_form)));
}

} // namespace flex::pipeline
