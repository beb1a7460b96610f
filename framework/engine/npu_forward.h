// Private to the engine: the forward pass on an NPU. forward.cpp is the same on the CPU.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "engine/forward.h"
#include "engine/npu_cost.h"
#include "npu/driver/npu.h"

namespace flex::engine {

/// Keeps what the NPU has to reach mapped: the workspace, the weights of the stages it met, the blocks of the
/// KV cache. The workspace is the CPU's, too: after any layer the other side can go on.
class NpuForward {
public:
    /// Q8_0 matrices only, and sizes that a job can name.
    [[nodiscard]] static bool supports(const Model& model);
    /// `state` has options.npu and its workspace, and outlives this. Errors: kOutOfMemory.
    static Result<std::unique_ptr<NpuForward>> create(BatchState& state);
    ~NpuForward();
    NpuForward(const NpuForward&) = delete;
    NpuForward& operator=(const NpuForward&) = delete;

    /// Whether this pass should be tried here.
    [[nodiscard]] bool chosen(std::size_t tokens, std::size_t wanted);

    struct Progress {
        bool done = false;
        std::uint32_t layers = 0; ///< when not done: the CPU is to go on with this layer
    };
    /// BatchState::forward(). An NPU that is not to be had, or fails, is no error but no progress. Errors:
    /// kCancelled, and those of the gate.
    Result<Progress> run(std::span<const Row> rows, std::span<const std::uint32_t> wanted, float* logits);

    /// So long took the CPU for such a pass.
    void measured_cpu(std::size_t tokens, std::size_t wanted, std::uint64_t nanoseconds);

private:
    using Clock = std::chrono::steady_clock;
    /// Memory of a stage's weights that lies together, in one region.
    struct Extent {
        const std::byte* begin = nullptr;
        std::size_t bytes = 0;
        npu::Region region = npu::Region::kNone;
    };
    struct MappedStage {
        std::uint64_t binding = 0; // Model::binding()
        std::vector<Extent> extents;
    };
    /// Stages [first, end) that are held.
    struct Stages {
        Stage first = 0, end = 0;
    };

    explicit NpuForward(BatchState& state);
    Status map_memory();

    // npu_forward.cpp: the pass
    Status begin();
    Status compute(std::span<const Row> rows, std::span<const std::uint32_t> wanted, float* logits);
    Status head(std::span<const std::uint32_t> wanted, float* logits);
    [[nodiscard]] std::uint32_t layers_per_job(std::uint32_t tokens) const;
    void layer(std::uint32_t index, std::uint32_t tokens);
    void attention(std::uint32_t index, std::uint32_t tokens);
    Status submit();
    Status finish_one();
    Status finish_all();
    void let_go();
    Status wait_for(Stage stage);
    Status hold(Stage stage);
    Status keep(Stage stage);
    Error leave(const char* why);
    Status npu_status(Status status);

    // npu_memory.cpp: what it reaches
    Status write_rows(std::span<const Row> rows);
    Status place_blocks(const SessionState& session, std::size_t blocks);
    Status map_cache(const KvPool& pool);
    Status map_stage(Stage stage);
    Status map_extents(MappedStage& mapped, Stage stage);
    void unmap_stage(MappedStage& mapped);
    [[nodiscard]] npu::Place weight(Stage stage, const void* at) const;
    [[nodiscard]] npu::MatrixPlace matrix(Stage stage, const Matrix& m) const;
    [[nodiscard]] npu::Place work(const void* at) const;
    [[nodiscard]] npu::Place own(const void* at) const;

    [[nodiscard]] PassWork work_of(std::size_t tokens, std::size_t wanted) const;
    void failed(const Error& error);

    BatchState& s_;
    npu::Npu& npu_;
    NpuCost cost_;
    PassWork layers_work_, head_work_; // of one token

    npu::Region work_region_ = npu::Region::kNone; // Workspace::shared
    npu::Region own_region_ = npu::Region::kNone;  // what follows
    std::span<std::byte> own_memory_;
    std::uint32_t* ids_ = nullptr; // [T]
    float* logits_ = nullptr;      // [head_rows_][vocabulary]
    std::byte* kv_rows_ = nullptr; // flex_npu_row[T], then the blocks of all sequences
    std::uint32_t head_rows_ = 0;

    std::vector<MappedStage> stages_;
    npu::Region cache_region_ = npu::Region::kNone;
    KvType cache_type_ = KvType::kF32;
    std::vector<std::uint64_t> placed_; // by slot of the cache: KvBlock::id, 0: nothing
    npu::KvPlace kv_;                   // of the pass

    npu::Job job_;                 // being built
    Stages collected_;             // that job_ needs
    std::deque<Stages> under_way_; // that submitted jobs need, oldest first
    std::vector<Stage> kept_;      // until the end of the pass
    std::uint32_t layers_done_ = 0;
    bool npu_failed_ = false; // what compute() returned is the NPU's error
    bool leave_ = false;      // the CPU is to go on, and the normal world may have the NPU
    bool begun_ = false;      // Npu::begin() without its end()

    Clock::time_point not_before_{}; // of the next try, after trouble
    std::chrono::milliseconds pause_{0};
};

} // namespace flex::engine
