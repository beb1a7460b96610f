// Private to the device: the commands of one job. Each one is checked as a whole (fields, then operands, gaps
// between their rows included) before it reads or writes anything.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "engine/kernels/kernels.h"
#include "engine/thread_pool.h"
#include "npu/model/dma.h"
#include "npu/model/job.h"
#include "npu/model/sram.h"

namespace flex::npu::model {

/// What a job runs on.
struct Machine {
    BusMemory& memory;
    const engine::Kernels& kernels;
    engine::ThreadPool& cores;
    Sram& sram;
    const std::atomic<bool>& stop;
    /// Waits for so long, or until `stop`.
    std::function<void(std::uint64_t nanoseconds)> pause;
};

struct KvPlan;

class Execution {
public:
    Execution(const Machine& machine, Job& job)
        : m_(machine), k_(machine.kernels), job_(job), dma_(machine.memory, machine.stop) {}

    Outcome run(const flex_npu_command& command);

    [[nodiscard]] std::uint64_t macs() const { return macs_; }
    [[nodiscard]] std::uint64_t moved() const { return dma_.moved(); }

private:
    // execution.cpp
    Outcome signal(const flex_npu_command& c);
    Outcome wait(const flex_npu_command& c);
    // matrices.cpp
    Outcome embed(const flex_npu_command& c);
    Outcome matmul(const flex_npu_command& c);
    struct Product;
    Outcome quantise(const Product& p, std::uint64_t first, std::uint64_t tokens);
    Outcome multiply(const Product& p, std::uint64_t first, std::uint64_t tokens, std::uint64_t panel,
                     Tiles tiles);
    // rows.cpp
    Outcome rms_norm(const flex_npu_command& c);
    Outcome softmax(const flex_npu_command& c);
    Outcome combine(const flex_npu_command& c);
    Outcome rope(const flex_npu_command& c);
    // kv.cpp
    Outcome plan_kv(const flex_npu_command& c, KvPlan& plan);
    Outcome cover_kv(const flex_npu_command& c, KvPlan& plan, bool all);
    Outcome kv_store(const flex_npu_command& c);
    Outcome kv_store_head(const KvPlan& plan, const Strips& keys, const Strips& values, std::uint32_t head,
                          Tiles tiles);
    Outcome store_keys(const KvPlan& plan, std::uint64_t at, std::size_t slot, std::size_t run,
                       const float* rows, Tiles tiles);
    Outcome store_values(const KvPlan& plan, std::uint64_t at, std::size_t slot, std::size_t run,
                         const float* rows, Tiles tiles);
    // attention.cpp
    struct Queries;
    Outcome attention(const flex_npu_command& c);
    Outcome attend(const Queries& q, std::uint64_t first, std::size_t rows, std::uint32_t kv_head,
                   Tiles tiles);
    Outcome score(const Queries& q, std::uint64_t at, std::size_t count, std::size_t rows, float* out,
                  const float* queries, Tiles tiles);
    Outcome sum(const Queries& q, std::uint64_t at, std::span<const std::size_t> seen, const float* weights,
                float* out, Tiles tiles);

    /// An operand of `rows` rows of so many elements. Errors: FLEX_NPU_BAD_OPERAND, and those of the tables.
    Outcome view(const flex_npu_operand& operand, std::uint64_t element, std::uint64_t alignment,
                 std::uint64_t rows, std::uint64_t elements, Strips& out);
    /// Of f32.
    Outcome floats(const flex_npu_operand& operand, std::uint64_t rows, std::uint64_t columns, Strips& out) {
        return view(operand, sizeof(float), sizeof(float), rows, columns, out);
    }
    /// A packed matrix, as one piece.
    Outcome matrix(const flex_npu_command& c, Strips& out);

    /// task(index, tiles) on all cores; after a failure those behind it that have not begun are left out.
    template <class Task> Outcome share_out(std::size_t count, const Task& task) {
        SharedOutcome outcome;
        m_.cores.run(count, [&](std::size_t index, unsigned core) {
            if (!outcome.failed_before(index)) outcome.report(index, task(index, Tiles(m_.sram.core(core))));
        });
        return outcome.first();
    }
    /// Rows that a core takes at a time: some 64 KiB, and something for every core.
    [[nodiscard]] std::uint64_t rows_at_a_time(std::uint64_t rows, std::uint64_t columns) const {
        const std::uint64_t fit = std::max<std::uint64_t>(1, (16 << 10) / columns);
        return std::min(fit, (rows + m_.cores.threads() - 1) / m_.cores.threads());
    }
    template <class Operation>
    Outcome for_rows(const Strips& y, std::uint64_t columns, const Operation& operation);

    const Machine& m_;
    const engine::Kernels& k_;
    Job& job_;
    Dma dma_;
    std::uint64_t macs_ = 0;
};

/// `count` rows from `first` on.
inline Strips rows_of(const Strips& all, std::uint64_t first, std::uint64_t count) {
    return {all.region, all.offset + first * all.stride, all.bytes, count, all.stride, all.operand_end};
}
/// Of each row, `bytes` from `first` on.
inline Strips columns_of(const Strips& all, std::uint64_t first, std::uint64_t bytes) {
    return {all.region, all.offset + first, bytes, all.count, all.stride, all.operand_end};
}

inline bool within(std::uint64_t value, std::uint64_t least, std::uint64_t most) {
    return value >= least && value <= most;
}

} // namespace flex::npu::model
