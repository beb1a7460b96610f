// What the NPU has to reach in a forward pass, and where it finds it.
#include <algorithm>

#include "engine/npu_forward.h"

namespace flex::engine {

namespace {

constexpr std::uint64_t kPage = FLEX_NPU_PAGE;
constexpr std::uint32_t kHeadRows = 8;           // logits of so many tokens at a time
constexpr std::size_t kListedBlocks = 64u << 10; // of all sequences of a pass
static_assert(kKvBlockTokens == FLEX_NPU_KV_BLOCK_TOKENS);

std::size_t round_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

npu::Place place_in(npu::Region region, const void* begin, const void* at) {
    return {region, static_cast<std::uint64_t>(static_cast<const std::byte*>(at) -
                                               static_cast<const std::byte*>(begin))};
}

} // namespace

bool NpuForward::supports(const Model& model) {
    const ModelShape& s = model.shape();
    const bool sizes = s.head_size <= 512 && s.head_size % 2 == 0 && s.heads <= 1024 && s.layers <= 1024 &&
                       s.vocabulary <= FLEX_NPU_ROWS_MAX && s.ff_width <= FLEX_NPU_COLUMNS_MAX &&
                       s.width <= FLEX_NPU_COLUMNS_MAX && s.q_width() <= FLEX_NPU_COLUMNS_MAX;
    return sizes && std::ranges::all_of(model.tensors(), [](const TensorNeed& need) {
               return need.type == (need.rows > 1 ? TensorType::kQ8_0 : TensorType::kF32) &&
                      need.bytes <= FLEX_NPU_REGION_BYTES_MAX - 2 * kPage;
           });
}

NpuForward::NpuForward(BatchState& state) : s_(state), npu_(*state.options.npu), cost_(state) {
    for (const TensorNeed& need : s_.model.tensors()) {
        if (need.rows == 1) continue;
        const bool is_head = need.stage == s_.model.stages() - 1;
        if (need.stage == 0 && !s_.model.shape().tied_head) continue;
        PassWork& work = is_head || need.stage == 0 ? head_work_ : layers_work_;
        work.macs += static_cast<double>(need.rows * need.columns);
        work.bytes += static_cast<double>(need.bytes);
    }
    stages_.resize(s_.model.stages());
}

Result<std::unique_ptr<NpuForward>> NpuForward::create(BatchState& state) {
    std::unique_ptr<NpuForward> made(new NpuForward(state));
    FLEX_TRY(made->map_memory());
    return made;
}

/// The workspace, and what only passes on the NPU need.
Status NpuForward::map_memory() {
    const std::size_t rows = s_.options.rows;
    head_rows_ = std::min(s_.options.rows, kHeadRows);
    const std::size_t logits =
        round_up(std::size_t{head_rows_} * s_.model.shape().vocabulary * sizeof(float), 64);
    const std::size_t ids = round_up(rows * sizeof(flex_u32), 64);
    const std::size_t kv_rows = rows * sizeof(flex_npu_row) + kListedBlocks * sizeof(flex_u32);
    FLEX_ASSIGN(own_memory_, npu_.allocate(logits + ids + kv_rows));
    logits_ = reinterpret_cast<float*>(own_memory_.data());
    ids_ = reinterpret_cast<flex_u32*>(own_memory_.data() + logits);
    kv_rows_ = own_memory_.data() + logits + ids;
    FLEX_ASSIGN(own_region_, npu_.map(own_memory_));
    const std::size_t shared = round_up(s_.work.shared_bytes, kPage);
    FLEX_ASSIGN(work_region_, npu_.map({s_.work.shared.get(), shared}));
    return {};
}

NpuForward::~NpuForward() {
    for (MappedStage& stage : stages_) unmap_stage(stage);
    for (const npu::Region region : {cache_region_, work_region_, own_region_})
        if (region != npu::Region::kNone) npu_.unmap(region);
    if (!own_memory_.empty()) npu_.free(own_memory_);
}

npu::Place NpuForward::work(const void* at) const { return place_in(work_region_, s_.work.shared.get(), at); }
npu::Place NpuForward::own(const void* at) const { return place_in(own_region_, own_memory_.data(), at); }

/// ids[T], and for each row where its sequence's blocks are: rows[T], then the blocks of one sequence after
/// the other.
Status NpuForward::write_rows(std::span<const Row> rows) {
    const KvPool& pool = *rows.front().session->kv;
    FLEX_TRY(map_cache(pool));
    if (s_.options.context > FLEX_NPU_CONTEXT_MAX) return leave("a context longer than the NPU's");
    auto* const row = reinterpret_cast<flex_npu_row*>(kv_rows_);
    auto* const list = reinterpret_cast<flex_u32*>(row + rows.size());
    std::size_t listed = 0;
    for (std::size_t first = 0; first < rows.size();) {
        const SessionState& session = *rows[first].session;
        if (session.kv.get() != &pool) return leave("sessions of several caches in a pass");
        std::size_t end = first;
        for (; end < rows.size() && rows[end].session == &session; ++end) {
            ids_[end] = rows[end].token;
            row[end] = {rows[end].position, static_cast<flex_u32>(listed)};
        }
        const std::size_t blocks = rows[end - 1].position / kKvBlockTokens + 1;
        if (blocks > kListedBlocks - listed) return leave("more KV blocks than fit in a job");
        FLEX_TRY(place_blocks(session, blocks));
        for (std::size_t b = 0; b < blocks; ++b) list[listed + b] = session.blocks[b].slot();
        listed += blocks;
        first = end;
    }
    kv_.rows_of = own(kv_rows_);
    kv_.tokens = static_cast<std::uint32_t>(rows.size());
    kv_.block_list = static_cast<std::uint32_t>(listed);
    return {};
}

/// The region of the cache has the pool's slots, as far as a region reaches.
Status NpuForward::map_cache(const KvPool& pool) {
    const KvLayout& layout = pool.layout();
    const std::size_t block_bytes = layout.block_bytes();
    const std::size_t slots = std::min<std::size_t>(pool.limit(), FLEX_NPU_REGION_BYTES_MAX / block_bytes);
    if (cache_region_ != npu::Region::kNone && cache_type_ == layout.type && placed_.size() == slots)
        return {};
    if (cache_region_ != npu::Region::kNone) npu_.unmap(std::exchange(cache_region_, npu::Region::kNone));
    if (slots == 0) return leave("KV blocks larger than a region");
    const auto region = npu_.map_slots(block_bytes, static_cast<std::uint32_t>(slots));
    if (!region.ok()) return npu_status(region.error());
    cache_region_ = *region;
    cache_type_ = layout.type;
    placed_.assign(slots, 0);
    static_assert(static_cast<int>(KvType::kF32) == 0 && static_cast<int>(KvType::kF16) == 1 &&
                  static_cast<int>(KvType::kQ8_0) == 2); // as in struct flex_npu_command
    kv_.cache = {cache_region_, 0};
    kv_.block_bytes = static_cast<std::uint32_t>(block_bytes);
    kv_.layers = layout.layers;
    kv_.type = static_cast<std::uint16_t>(layout.type);
    kv_.kv_heads = static_cast<std::uint16_t>(layout.kv_heads);
    kv_.head_size = static_cast<std::uint16_t>(layout.head_size);
    return {};
}

Status NpuForward::place_blocks(const SessionState& session, std::size_t blocks) {
    for (std::size_t b = 0; b < blocks; ++b) {
        const KvBlockRef& block = session.blocks[b];
        if (block.slot() >= placed_.size()) return leave("more KV blocks than a region holds");
        if (placed_[block.slot()] == block.id()) continue;
        FLEX_TRY(npu_status(npu_.place(cache_region_, block.slot(), block.bytes())));
        placed_[block.slot()] = block.id();
    }
    return {};
}

void NpuForward::unmap_stage(MappedStage& mapped) {
    for (const Extent& extent : mapped.extents) npu_.unmap(extent.region);
    mapped.extents.clear();
}

/// The stage is held, so its weights are bound and stay where they are.
Status NpuForward::map_stage(Stage stage) {
    MappedStage& mapped = stages_[stage];
    const std::uint64_t binding = s_.model.binding(stage);
    if (!mapped.extents.empty() && mapped.binding == binding) return {};
    unmap_stage(mapped);
    mapped.binding = binding;
    Status status = map_extents(mapped, stage);
    if (!status.ok()) unmap_stage(mapped);
    return npu_status(std::move(status));
}

/// A region for each run of pages that the stage's tensors lie in: one, where it was loaded in one piece.
Status NpuForward::map_extents(MappedStage& mapped, Stage stage) {
    struct Pages {
        std::uintptr_t begin = 0, end = 0;
    };
    std::vector<Pages> runs;
    for (std::size_t i = s_.model.first_tensor(stage); i < s_.model.first_tensor(stage + 1); ++i) {
        const auto bytes = s_.model.bytes_of(i);
        const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
        runs.push_back({begin / kPage * kPage, round_up(begin + bytes.size(), kPage)});
    }
    std::ranges::sort(runs, {}, &Pages::begin);
    for (std::size_t i = 0; i < runs.size();) {
        Pages run = runs[i];
        for (++i; i < runs.size() && runs[i].begin <= run.end; ++i) run.end = std::max(run.end, runs[i].end);
        const std::span memory(reinterpret_cast<const std::byte*>(run.begin), run.end - run.begin);
        FLEX_ASSIGN(const npu::Region region, npu_.map(memory));
        mapped.extents.push_back({memory.data(), memory.size(), region});
    }
    return {};
}

npu::Place NpuForward::weight(Stage stage, const void* at) const {
    const auto* byte = static_cast<const std::byte*>(at);
    for (const Extent& extent : stages_[stage].extents)
        if (byte >= extent.begin && byte < extent.begin + extent.bytes)
            return place_in(extent.region, extent.begin, at);
    return {}; // no region: the job is refused
}

npu::MatrixPlace NpuForward::matrix(Stage stage, const Matrix& m) const {
    return {weight(stage, m.data), m.rows, m.columns};
}

} // namespace flex::engine
