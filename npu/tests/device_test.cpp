// The device around its operations: what it refuses, its registers, what is left in it, and how it stops.
#include <array>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "npu/model/local_memory.h"
#include "npu/tests/shared.h"

namespace flex::npu::model::testing {
namespace {

constexpr std::uint64_t kRegionBytes = 64 * FLEX_NPU_PAGE;
using Change = std::function<void(flex_npu_command&)>;

/// One region of 64 pages, and for every operation a command that is good as it stands.
class DeviceTest : public ::testing::Test {
protected:
    flex_npu_command good(std::uint32_t op) {
        flex_npu_command c = command(op, 2);
        c.rows = 32;
        c.columns = 64;
        c.heads = 4;
        c.kv_heads = 2;
        c.head_size = 32;
        c.kv_type = 1;
        c.layers = 2;
        c.block_bytes = 5 * FLEX_NPU_PAGE;
        c.block_list = 2;
        c.x = {0, 0, 0};
        c.y = {0, 0, 0x4000};
        c.z = {0, 0, 0x6000};
        c.w = {0, 0, 0x8000};
        if (op == FLEX_NPU_ROPE) c.columns = 16;
        if (op == FLEX_NPU_EMBED) c.x.offset = 0x30000; // zeros
        if (op == FLEX_NPU_KV_STORE || op == FLEX_NPU_ATTENTION) c.u.rows_of = {0, 0, 0x30000};
        if (op == FLEX_NPU_SIGNAL || op == FLEX_NPU_WAIT) c.u.fence = {0, 0};
        return c;
    }
    flex_npu_result run(const std::vector<flex_npu_command>& commands) {
        TestJob job;
        job.regions.push_back(region.abi());
        job.commands = commands;
        return npu.run(job);
    }
    /// The command alone ends with this status, and memory stays as it is.
    void expect_refused(const flex_npu_command& c, flex_npu_status status, const char* why) {
        const std::vector<std::byte> before(npu.bus.all().begin(), npu.bus.all().end());
        const flex_npu_result result = run({command(FLEX_NPU_NOP), c});
        EXPECT_EQ(result.status, static_cast<std::uint32_t>(status)) << "op " << c.op << ": " << why;
        EXPECT_EQ(result.command, 1u) << why;
        EXPECT_TRUE(std::ranges::equal(before, npu.bus.all())) << "op " << c.op << " wrote: " << why;
    }
    void expect_refused(std::initializer_list<std::uint32_t> ops, flex_npu_status status, const char* why,
                        const Change& change) {
        for (const std::uint32_t op : ops) {
            flex_npu_command c = good(op);
            change(c);
            expect_refused(c, status, why);
        }
    }
    std::uint32_t sram_sum() {
        std::uint32_t sum = 0;
        npu.device.write(FLEX_NPU_REG_SRAM_ADDRESS, 0);
        for (std::uint32_t i = 0; i < npu.device.read(FLEX_NPU_REG_SRAM_BYTES) / 4; ++i)
            sum |= npu.device.read(FLEX_NPU_REG_SRAM_DATA);
        return sum;
    }

    Npu npu{1200};
    TestRegion region{npu.pages, kRegionBytes};
};

constexpr std::initializer_list<std::uint32_t> kMatrixOps = {FLEX_NPU_EMBED, FLEX_NPU_MATMUL},
                                               kRowOps = {FLEX_NPU_RMS_NORM, FLEX_NPU_SOFTMAX, FLEX_NPU_ADD,
                                                          FLEX_NPU_SILU_MULTIPLY},
                                               kKvOps = {FLEX_NPU_KV_STORE, FLEX_NPU_ATTENTION},
                                               kAllOps = {FLEX_NPU_EMBED,        FLEX_NPU_RMS_NORM,
                                                          FLEX_NPU_MATMUL,       FLEX_NPU_ROPE,
                                                          FLEX_NPU_KV_STORE,     FLEX_NPU_ATTENTION,
                                                          FLEX_NPU_SOFTMAX,      FLEX_NPU_ADD,
                                                          FLEX_NPU_SILU_MULTIPLY};

TEST_F(DeviceTest, the_commands_that_are_changed_below_are_good_as_they_stand) {
    for (const std::uint32_t op : kAllOps)
        EXPECT_EQ(run({good(op)}).status, static_cast<std::uint32_t>(FLEX_NPU_OK)) << "op " << op;
    for (const std::uint32_t op : {FLEX_NPU_NOP, FLEX_NPU_SIGNAL, FLEX_NPU_WAIT})
        EXPECT_EQ(run({good(op)}).status, static_cast<std::uint32_t>(FLEX_NPU_OK)) << "op " << op;
}

TEST_F(DeviceTest, fields_out_of_their_range_are_a_bad_command) {
    const auto bad = [&](auto ops, const char* why, const Change& change) {
        expect_refused(ops, FLEX_NPU_BAD_COMMAND, why, change);
    };
    bad(kAllOps, "no rows", [](auto& c) { c.count = 0; });
    bad(kAllOps, "too many rows", [](auto& c) { c.count = FLEX_NPU_COUNT_MAX + 1; });
    bad(kAllOps, "a flag that does not exist", [](auto& c) { c.flags = 8; });
    bad(kRowOps, "a flag of another operation", [](auto& c) { c.flags = FLEX_NPU_GATE; });
    bad(kRowOps, "no columns", [](auto& c) { c.columns = 0; });
    bad(kRowOps, "too many columns", [](auto& c) { c.columns = FLEX_NPU_COLUMNS_MAX + 1; });
    bad(kMatrixOps, "no columns", [](auto& c) { c.columns = 0; });
    bad(kMatrixOps, "columns that are no blocks", [](auto& c) { c.columns = 48; });
    bad(kMatrixOps, "too many columns", [](auto& c) { c.columns = FLEX_NPU_COLUMNS_MAX + 32; });
    bad(kMatrixOps, "no rows", [](auto& c) { c.rows = 0; });
    bad(kMatrixOps, "too many rows", [](auto& c) { c.rows = FLEX_NPU_ROWS_MAX + 1; });
    using Ops = std::initializer_list<std::uint32_t>;
    bad(Ops{FLEX_NPU_MATMUL}, "both flags", [](auto& c) { c.flags = FLEX_NPU_ACCUMULATE | FLEX_NPU_GATE; });
    bad(Ops{FLEX_NPU_ROPE}, "no pairs", [](auto& c) { c.columns = 0; });
    bad(Ops{FLEX_NPU_ROPE}, "more pairs than a head has", [](auto& c) { c.columns = 17; });
    bad(Ops{FLEX_NPU_ROPE, FLEX_NPU_ATTENTION}, "no heads", [](auto& c) { c.heads = 0; });
    bad(Ops{FLEX_NPU_ROPE, FLEX_NPU_ATTENTION}, "too many heads", [](auto& c) { c.heads = 1026; });
    for (const int size : {0, 1, 33, 514}) {
        bad(Ops{FLEX_NPU_ROPE, FLEX_NPU_KV_STORE, FLEX_NPU_ATTENTION}, "the size of a head",
            [&](auto& c) { c.head_size = static_cast<std::uint16_t>(size), c.columns = 1; });
    }
    bad(kKvOps, "no KV heads", [](auto& c) { c.kv_heads = 0; });
    bad(kKvOps, "too many KV heads", [](auto& c) { c.kv_heads = 1025; });
    bad(Ops{FLEX_NPU_ATTENTION}, "heads that are no groups", [](auto& c) { c.heads = 5; });
    bad(kKvOps, "a type that does not exist", [](auto& c) { c.kv_type = 3; });
    bad(kKvOps, "Q8_0 of a head that is no blocks", [](auto& c) { c.kv_type = 2, c.head_size = 30; });
    bad(kKvOps, "no layers", [](auto& c) { c.layers = 0; });
    bad(kKvOps, "too many layers", [](auto& c) { c.layers = 1025; });
    bad(kKvOps, "a layer that does not exist", [](auto& c) { c.layer = 2; });
    bad(kKvOps, "blocks of no pages", [](auto& c) { c.block_bytes += 64; });
    bad(kKvOps, "blocks too small", [](auto& c) { c.block_bytes = 3 * FLEX_NPU_PAGE; });
    bad(kKvOps, "no list", [](auto& c) { c.block_list = 0; });
    bad(kKvOps, "a list too long", [](auto& c) { c.block_list = FLEX_NPU_BLOCK_LIST_MAX + 1; });
    bad(Ops{FLEX_NPU_WAIT}, "a wait too long", [](auto& c) { c.count = FLEX_NPU_WAIT_US_MAX + 1; });
    bad(Ops{FLEX_NPU_WAIT, FLEX_NPU_SIGNAL}, "reserved", [](auto& c) { c.u.fence.reserved = 1; });
    bad(Ops{12, 0xffffffff}, "an operation that does not exist", [](auto&) {});
}

TEST_F(DeviceTest, operands_outside_their_region_misaligned_or_in_a_hole_are_bad) {
    using Field = flex_npu_operand flex_npu_command::*;
    struct Use {
        std::uint32_t op;
        std::vector<std::pair<Field, std::uint32_t>> operands; // and what they are aligned to
    };
    const Field x = &flex_npu_command::x, y = &flex_npu_command::y, z = &flex_npu_command::z,
                w = &flex_npu_command::w;
    const std::vector<Use> uses = {{FLEX_NPU_EMBED, {{x, 4}, {y, 4}, {w, 64}}},
                                   {FLEX_NPU_RMS_NORM, {{x, 4}, {y, 4}, {w, 4}}},
                                   {FLEX_NPU_MATMUL, {{x, 4}, {y, 4}, {w, 64}}},
                                   {FLEX_NPU_ROPE, {{y, 4}, {z, 4}, {w, 4}}},
                                   {FLEX_NPU_KV_STORE, {{x, 4}, {z, 4}, {w, 64}}},
                                   {FLEX_NPU_ATTENTION, {{x, 4}, {y, 4}, {w, 64}}},
                                   {FLEX_NPU_SOFTMAX, {{y, 4}}},
                                   {FLEX_NPU_ADD, {{x, 4}, {y, 4}}},
                                   {FLEX_NPU_SILU_MULTIPLY, {{x, 4}, {y, 4}}},
                                   {FLEX_NPU_SIGNAL, {{y, 8}}},
                                   {FLEX_NPU_WAIT, {{x, 8}}}};
    const std::uint64_t table = region.entry(region.abi().table, 0);
    for (const Use& use : uses) {
        for (const auto& [field, alignment] : use.operands) {
            const auto bad = [&, field = field](const char* why, auto change) {
                flex_npu_command c = good(use.op);
                change(c.*field);
                expect_refused(c, FLEX_NPU_BAD_OPERAND, why);
            };
            bad("no such region", [](auto& o) { o.region = 1; });
            bad("a region far away", [](auto& o) { o.region = 0xffffffff; });
            bad("misaligned", [a = alignment](auto& o) { o.offset += a / 2; });
            bad("behind the end", [](auto& o) { o.offset = kRegionBytes; });
            bad("far behind the end", [](auto& o) { o.offset = 0xffffffffffffffc0; });
            if (alignment != 8) // more than one row
                bad("over the end",
                    [a = alignment](auto& o) { o.offset = kRegionBytes - a, o.stride = 0xfffffff; });
            for (const std::uint64_t entry : {std::uint64_t{0}, region.address_of(0) + 8}) {
                // All pages but those of the other operands: a hole, then an entry that is no page's address.
                const flex_npu_command c = good(use.op);
                std::uint64_t& slot = region.entry(table, (c.*field).offset / FLEX_NPU_PAGE);
                const std::uint64_t was = std::exchange(slot, entry);
                expect_refused(c, FLEX_NPU_BAD_OPERAND, "a hole");
                slot = was;
            }
        }
    }
    expect_refused({FLEX_NPU_ADD, FLEX_NPU_SOFTMAX}, FLEX_NPU_BAD_OPERAND, "rows over each other",
                   [](auto& c) { c.y.stride = 63; });
    expect_refused({FLEX_NPU_MATMUL}, FLEX_NPU_BAD_OPERAND, "the gate's operand", [](auto& c) {
        c.flags = FLEX_NPU_GATE;
        c.z.region = 3;
    });
    const std::uint64_t block = std::exchange(region.entry(region.abi().table, 0), 0);
    expect_refused({FLEX_NPU_ADD}, FLEX_NPU_BAD_OPERAND, "a hole of 2 MiB", [](auto&) {});
    for (const std::uint64_t entry : {block | 2, std::uint64_t{0x801}, ~std::uint64_t{0xfff} | 1}) {
        region.entry(region.abi().table, 0) = entry;
        expect_refused({FLEX_NPU_ADD}, FLEX_NPU_BAD_OPERAND, "a malformed entry", [](auto&) {});
    }
}

TEST_F(DeviceTest, the_last_byte_of_a_region_can_be_used_and_no_further_one) {
    for (std::uint32_t bytes : {512u, 511u}) {
        region.abi().bytes = 0x4000 + bytes; // y: [2][64] f32 at 0x4000
        flex_npu_command c = good(FLEX_NPU_SOFTMAX);
        EXPECT_EQ(run({c}).status,
                  static_cast<std::uint32_t>(bytes == 512 ? FLEX_NPU_OK : FLEX_NPU_BAD_OPERAND));
    }
}

TEST_F(DeviceTest, rows_of_the_cache_and_tokens_that_do_not_exist_are_bad_operands) {
    const auto words = [&](std::vector<std::uint32_t> list) { region.put(0x30000, list); };
    for (const std::uint32_t op : kKvOps) {
        words({FLEX_NPU_CONTEXT_MAX, 0, 0, 0, 0, 0});
        expect_refused(good(op), FLEX_NPU_BAD_OPERAND, "a position far behind the list");
        flex_npu_command c = good(op);
        c.block_list = FLEX_NPU_CONTEXT_MAX / FLEX_NPU_KV_BLOCK_TOKENS + 1; // zeros: the first block for all
        expect_refused(c, FLEX_NPU_BAD_OPERAND, "a position too large, though the list has it");
        words({0, 0, 64, 0, 0, 0});
        expect_refused(good(op), FLEX_NPU_BAD_OPERAND, "a position behind the list");
        words({0, 0, 0, 2, 0, 0});
        expect_refused(good(op), FLEX_NPU_BAD_OPERAND, "a list that begins behind its end");
        words({0, 0, 0, 0xffffffff, 0, 0});
        expect_refused(good(op), FLEX_NPU_BAD_OPERAND, "a list that begins far away");
        words({0, 0, 33, 0, 0, 11});
        expect_refused(good(op), FLEX_NPU_BAD_OPERAND, "a block behind the region");
        words({0, 0, 33, 0, 0, 0xffffffff});
        expect_refused(good(op), FLEX_NPU_BAD_OPERAND, "a block far behind the region");
        words({0, 0, 33, 0, 0, 1});
        EXPECT_EQ(run({good(op)}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    }
    words({0, 32});
    expect_refused(good(FLEX_NPU_EMBED), FLEX_NPU_BAD_OPERAND, "a row that the matrix has not");
}

TEST_F(DeviceTest, what_the_bus_refuses_is_a_fault_at_its_address) {
    flex_npu_command c = good(FLEX_NPU_ADD);
    const std::uint64_t x = region.address_of(0), y = region.address_of(0x4000);
    npu.bus.grant(x, ArenaBus::kNone);
    flex_npu_result result = run({command(FLEX_NPU_NOP), c});
    EXPECT_EQ(result.status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
    EXPECT_EQ(result.address, x);
    EXPECT_EQ(result.command, 1u);
    npu.bus.grant(x, ArenaBus::kReadOnly);
    npu.bus.grant(y, ArenaBus::kReadOnly);
    EXPECT_EQ(run({c}).address, y);
    npu.bus.grant(y, ArenaBus::kWriteOnly);
    EXPECT_EQ(run({c}).address, y);
    npu.bus.grant(y, ArenaBus::kBoth);
    EXPECT_EQ(run({c}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    npu.bus.grant(region.abi().table, ArenaBus::kNone);
    EXPECT_EQ(run({c}).address, region.abi().table);
    npu.bus.grant(region.abi().table, ArenaBus::kBoth);
    const std::uint64_t table = region.entry(region.abi().table, 0);
    npu.bus.grant(table, ArenaBus::kNone);
    EXPECT_EQ(run({c}).address, table);
    EXPECT_EQ(npu.device.read(FLEX_NPU_REG_FAULTS), 5u);
}

TEST_F(DeviceTest, a_malformed_job_is_refused_as_a_whole) {
    TestJob job;
    job.regions.push_back(region.abi());
    job.commands.push_back(good(FLEX_NPU_SOFTMAX));
    const std::vector<std::byte> before(npu.bus.all().begin(), npu.bus.all().end());
    const auto expect_bad = [&](std::span<const std::byte> bytes, const char* why) {
        EXPECT_EQ(npu.device.run(bytes).status, static_cast<std::uint32_t>(FLEX_NPU_BAD_JOB)) << why;
    };
    const auto changed = [&](std::size_t offset, auto value, const char* why) {
        std::vector<std::byte> bytes = job.bytes();
        std::memcpy(bytes.data() + offset, &value, sizeof value);
        expect_bad(bytes, why);
    };
    changed(0, std::uint32_t{1}, "magic");
    changed(4, std::uint32_t{2}, "version");
    for (const std::uint32_t count : {0u, 2u, 65u, 0xffffffffu}) changed(8, count, "regions");
    for (const std::uint32_t count : {0u, 2u, 4097u, 0xffffffffu}) changed(12, count, "commands");
    changed(24, std::uint64_t{1}, "reserved");
    changed(32, region.abi().table + 8, "a table that is no page");
    changed(40, std::uint64_t{0}, "an empty region");
    changed(40, FLEX_NPU_REGION_BYTES_MAX + 1, "a region too large");
    std::vector<std::byte> bytes = job.bytes();
    for (const std::size_t size : {std::size_t{0}, std::size_t{31}, std::size_t{32}, bytes.size() - 1})
        expect_bad(std::span(bytes).first(size), "cut off");
    bytes.push_back({});
    expect_bad(bytes, "something behind it");
    expect_bad(std::vector<std::byte>(FLEX_NPU_JOB_BYTES + 1), "too long");
    EXPECT_TRUE(std::ranges::equal(before, npu.bus.all()));
    job.commands.assign(FLEX_NPU_COMMANDS_MAX, command(FLEX_NPU_NOP));
    const flex_npu_result result = npu.run(job);
    EXPECT_EQ(result.status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    EXPECT_EQ(result.command, FLEX_NPU_COMMANDS_MAX);
    EXPECT_EQ(result.cookie, job.cookie);
}

TEST_F(DeviceTest, commands_behind_the_one_that_failed_are_not_run) {
    flex_npu_command bad = good(FLEX_NPU_ADD), after = good(FLEX_NPU_SOFTMAX);
    bad.x.region = 9;
    const auto before = region.get<float>(0x4000, 128);
    EXPECT_EQ(run({bad, after}).command, 0u);
    EXPECT_TRUE(same_bits(before, region.get<float>(0x4000, 128)));
}

TEST_F(DeviceTest, blocks_of_2_mib_and_pages_make_one_region) {
    Npu large(4000);
    TestRegion mixed(large.pages, 5 << 20, true);
    const std::uint64_t table = large.pages.take();
    mixed.entry(mixed.abi().table, 1) = table; // the middle 2 MiB in pages
    for (std::size_t i = 0; i < FLEX_NPU_ENTRIES; ++i) mixed.entry(table, i) = large.pages.take();
    Floats values(1 << 20);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000);
    mixed.put(4096, values);
    TestJob job;
    job.regions.push_back(mixed.abi());
    flex_npu_command c =
        command(FLEX_NPU_ADD, 256); // a row crosses the end of a page; all of them that of two blocks
    c.columns = 4096;
    c.x = c.y = {0, 0, 4096};
    job.commands.push_back(c);
    EXPECT_EQ(large.run(job).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    for (float& v : values) v += v;
    EXPECT_TRUE(same_bits(mixed.get<float>(4096, values.size()), values));
}

/// Knows which pages were opened, and which were named before as what comes next.
class RecordingBus final : public ArenaBus {
public:
    using ArenaBus::ArenaBus;
    using Accesses = std::set<std::pair<std::uint64_t, Access>>;
    Accesses opened, named;

private:
    Window open_window(std::uint64_t address, std::uint64_t bytes, Access access,
                       const Ahead* ahead) override {
        const Window window = ArenaBus::open_window(address, bytes, access, ahead);
        const std::lock_guard lock(mutex_);
        for (std::uint64_t at = address; at < address + window.bytes;
             at = (at / FLEX_NPU_PAGE + 1) * FLEX_NPU_PAGE)
            opened.emplace(at / FLEX_NPU_PAGE, access);
        std::array<std::uint64_t, 500> pages;
        const std::size_t count = ahead == nullptr ? 0 : ahead->pages(pages);
        for (std::size_t i = 0; i < count; ++i) named.emplace(pages[i] / FLEX_NPU_PAGE, access);
        return window;
    }

    std::mutex mutex_;
};

/// Whoever translates looks these pages up as if they were accessed: what is named and not granted would be
/// reported as an attempt.
TEST_F(DeviceTest, pages_that_are_named_ahead_are_those_that_the_command_accesses_and_the_same_way) {
    for (const std::uint32_t op : kAllOps) {
        for (const bool apart : {false, true}) {
            SCOPED_TRACE(op);
            RecordingBus bus(1200);
            Pages pages(bus);
            TestRegion wide(pages, 256 * FLEX_NPU_PAGE);
            flex_npu_command c = good(op);
            const bool kv = op == FLEX_NPU_KV_STORE || op == FLEX_NPU_ATTENTION;
            c.rows = 128;
            c.columns = op == FLEX_NPU_ROPE ? 64 : 2048;
            c.heads = 16;
            c.head_size = 128;
            c.block_bytes = 16 * FLEX_NPU_PAGE;
            c.y.offset = 0x20000;
            c.z.offset = 0x40000;
            c.w.offset = 0x60000;
            if (op == FLEX_NPU_EMBED) c.x.offset = 0xf0000;
            if (kv) c.u.rows_of.offset = 0xf0000;
            if (apart) c.y.stride = 8 * FLEX_NPU_PAGE / sizeof(float); // whole pages between the rows
            TestJob job;
            job.regions.push_back(wide.abi());
            job.commands.push_back(c);
            Device device(bus, *engine::select_kernels());
            ASSERT_EQ(device.run(job.bytes()).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
            EXPECT_TRUE(std::ranges::includes(bus.opened, bus.named));
            if (op != FLEX_NPU_MATMUL) continue;
            const std::uint64_t end = c.w.offset + engine::packed_bytes(c.rows, c.columns);
            for (std::uint64_t at = c.w.offset + FLEX_NPU_PAGE; at < end; at += FLEX_NPU_PAGE)
                EXPECT_TRUE(bus.named.contains({wide.address_of(at) / FLEX_NPU_PAGE, Access::kRead})) << at;
        }
    }
}

TEST_F(DeviceTest, fences_wait_for_a_word_and_store_one) {
    flex_npu_command wait = good(FLEX_NPU_WAIT), signal = good(FLEX_NPU_SIGNAL);
    wait.count = 1000;
    wait.u.fence.scalar64 = 7;
    signal.u.fence.scalar64 = 0x1234567890;
    EXPECT_EQ(run({wait, signal}).status, static_cast<std::uint32_t>(FLEX_NPU_TIMEOUT));
    EXPECT_EQ(region.get<std::uint64_t>(0x4000, 1)[0], 0u);
    wait.count = FLEX_NPU_WAIT_US_MAX;
    auto waiting = std::async(std::launch::async, [&] { return run({wait, signal}); });
    while (npu.device.read(FLEX_NPU_REG_STATUS) == 0) std::this_thread::yield();
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(npu.bus.at(region.address_of(0))), 8, __ATOMIC_RELEASE);
    EXPECT_EQ(waiting.get().status, static_cast<std::uint32_t>(FLEX_NPU_OK)); // 8 is at least 7
    EXPECT_EQ(region.get<std::uint64_t>(0x4000, 1)[0], 0x1234567890u);
}

TEST_F(DeviceTest, reset_and_power_off_stop_a_job_from_another_thread) {
    flex_npu_command wait = good(FLEX_NPU_WAIT);
    wait.count = FLEX_NPU_WAIT_US_MAX;
    wait.u.fence.scalar64 = 1;
    for (const bool power : {false, true}) {
        auto job = std::async(std::launch::async, [&] { return run({wait, good(FLEX_NPU_ADD)}); });
        while (npu.device.read(FLEX_NPU_REG_STATUS) == 0) std::this_thread::yield();
        if (power)
            npu.device.write(FLEX_NPU_REG_POWER, 0);
        else
            npu.device.reset();
        EXPECT_EQ(npu.device.read(FLEX_NPU_REG_STATUS), 0u);
        EXPECT_EQ(job.get().status, static_cast<std::uint32_t>(power ? FLEX_NPU_OFF : FLEX_NPU_ABORTED));
    }
    const flex_npu_result off = run({good(FLEX_NPU_ADD)});
    EXPECT_EQ(off.status, static_cast<std::uint32_t>(FLEX_NPU_OFF));
    EXPECT_EQ(off.cookie, TestJob{}.cookie);
    npu.device.write(FLEX_NPU_REG_POWER, 1);
    EXPECT_EQ(run({good(FLEX_NPU_ADD)}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    npu.device.write(FLEX_NPU_REG_POWER, 0);
    npu.device.reset();
    EXPECT_EQ(npu.device.read(FLEX_NPU_REG_POWER), 1u);
}

TEST_F(DeviceTest, a_cancelled_job_does_not_begin) {
    const std::atomic<bool> cancelled{true};
    TestJob job;
    job.regions.push_back(region.abi());
    job.commands.push_back(good(FLEX_NPU_SIGNAL));
    job.commands[0].u.fence.scalar64 = 5;
    EXPECT_EQ(npu.device.run(job.bytes(), &cancelled).status, static_cast<std::uint32_t>(FLEX_NPU_ABORTED));
    EXPECT_EQ(region.get<std::uint64_t>(0x4000, 1)[0], 0u);
}

TEST_F(DeviceTest, a_job_leaves_its_operands_in_sram_until_reset_or_power_off) {
    constexpr float kCanary = 1234.5F;
    const auto use = [&] {
        region.put(0x4000, Floats(128, kCanary));
        region.put(0, Floats(128, 0.0F));
        EXPECT_EQ(run({good(FLEX_NPU_ADD)}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    };
    const auto found = [&] {
        bool is = false;
        npu.device.write(FLEX_NPU_REG_SRAM_ADDRESS, Sram::kSharedBytes); // the first core's part
        for (int i = 0; i < 128; ++i)
            is |= npu.device.read(FLEX_NPU_REG_SRAM_DATA) == std::bit_cast<std::uint32_t>(kCanary);
        npu.device.write(FLEX_NPU_REG_SRAM_ADDRESS,
                         Sram::kSharedBytes + Sram::kCoreBytes); // the second one's
        for (int i = 0; i < 128; ++i)
            is |= npu.device.read(FLEX_NPU_REG_SRAM_DATA) == std::bit_cast<std::uint32_t>(kCanary);
        return is;
    };
    use();
    EXPECT_TRUE(found());
    npu.device.reset();
    EXPECT_EQ(sram_sum(), 0u);
    use();
    EXPECT_TRUE(found());
    npu.device.write(FLEX_NPU_REG_POWER, 0);
    EXPECT_EQ(sram_sum(), 0u);
    npu.device.write(FLEX_NPU_REG_SRAM_ADDRESS, 0);
    npu.device.write(FLEX_NPU_REG_SRAM_DATA, 1);
    EXPECT_EQ(sram_sum(), 0u) << "written without power";
    npu.device.write(FLEX_NPU_REG_POWER, 1);
    npu.device.write(FLEX_NPU_REG_SRAM_ADDRESS, 0);
    npu.device.write(FLEX_NPU_REG_SRAM_DATA, 1);
    EXPECT_EQ(sram_sum(), 1u);
    npu.device.reset();
    EXPECT_EQ(sram_sum(), 0u) << "written through the window";
}

TEST_F(DeviceTest, registers_say_what_it_is_and_reset_clears_what_can_be_left_in_them) {
    Device& d = npu.device;
    EXPECT_EQ(d.read(FLEX_NPU_REG_ID), FLEX_NPU_ID);
    EXPECT_EQ(d.read(FLEX_NPU_REG_VERSION), FLEX_NPU_VERSION);
    EXPECT_EQ(d.read(FLEX_NPU_REG_SRAM_BYTES), 2u << 20);
    EXPECT_EQ(d.read(FLEX_NPU_REG_CORES), 2u);
    EXPECT_EQ(d.read(FLEX_NPU_REG_POWER), 1u);
    EXPECT_EQ(d.read(0xffff), 0u);
    for (std::uint32_t i = 0; i < FLEX_NPU_SCRATCH_REGISTERS; ++i) d.write(FLEX_NPU_REG_SCRATCH + i, i + 1);
    d.write(FLEX_NPU_REG_SCRATCH + FLEX_NPU_SCRATCH_REGISTERS, 1);
    for (std::uint32_t i = 0; i < FLEX_NPU_SCRATCH_REGISTERS; ++i)
        EXPECT_EQ(d.read(FLEX_NPU_REG_SCRATCH + i), i + 1);
    EXPECT_EQ(d.read(FLEX_NPU_REG_SCRATCH + FLEX_NPU_SCRATCH_REGISTERS), 0u);
    for (const std::uint32_t reg : {FLEX_NPU_REG_ID, FLEX_NPU_REG_CORES, FLEX_NPU_REG_JOBS}) {
        const std::uint32_t was = d.read(reg);
        d.write(reg, 77);
        EXPECT_EQ(d.read(reg), was);
    }
    d.write(FLEX_NPU_REG_SRAM_ADDRESS, (2u << 20) - 6);
    EXPECT_EQ(d.read(FLEX_NPU_REG_SRAM_ADDRESS), (2u << 20) - 8);
    d.write(FLEX_NPU_REG_SRAM_DATA, 1);
    d.write(FLEX_NPU_REG_SRAM_DATA, 2);
    d.write(FLEX_NPU_REG_SRAM_DATA, 3); // behind the end
    d.write(FLEX_NPU_REG_SRAM_ADDRESS, (2u << 20) - 4);
    EXPECT_EQ(d.read(FLEX_NPU_REG_SRAM_DATA), 2u);
    EXPECT_EQ(d.read(FLEX_NPU_REG_SRAM_DATA), 0u);
    run({good(FLEX_NPU_MATMUL)});
    EXPECT_EQ(d.read(FLEX_NPU_REG_JOBS), 1u);
    EXPECT_NE(d.read(FLEX_NPU_REG_CYCLES_LOW), 0u);
    d.reset();
    for (std::uint32_t reg = FLEX_NPU_REG_JOBS; reg < FLEX_NPU_REG_SCRATCH + FLEX_NPU_SCRATCH_REGISTERS;
         ++reg)
        EXPECT_EQ(d.read(reg), 0u) << reg;
}

TEST(PerformanceModel, charges_the_slower_of_computing_and_moving_and_the_launch) {
    Npu npu(1200, {.cores = 1, .performance = {.mac_per_us = 10, .bytes_per_us = 100, .launch_ns = 5000}});
    TestRegion region(npu.pages, kRegionBytes);
    TestJob job;
    job.regions.push_back(region.abi());
    flex_npu_command product = command(FLEX_NPU_MATMUL, 4);
    product.rows = 32;
    product.columns = 64;
    product.y.offset = 0x4000;
    product.w.offset = 0x8000;
    flex_npu_command sum = command(FLEX_NPU_ADD, 2);
    sum.columns = 64;
    sum.y.offset = 0x4000;
    job.commands = {product, sum};
    const flex_npu_result result = npu.run(job);
    EXPECT_EQ(result.macs, 4u * 32 * 64);
    const std::uint64_t product_bytes = engine::packed_bytes(32, 64) + 4 * 64 * 4 + 4 * 32 * 4;
    const std::uint64_t sum_bytes = 3 * 2 * 64 * 4;
    EXPECT_EQ(result.bytes, product_bytes + sum_bytes);
    EXPECT_EQ(result.cycles, 5000 + 4 * 32 * 64 * 1000 / 10 + sum_bytes * 1000 / 100);
    EXPECT_EQ(npu.device.read(FLEX_NPU_REG_MAC_PER_US), 10u);
    EXPECT_EQ(npu.device.read(FLEX_NPU_REG_BYTES_PER_US), 100u);
    EXPECT_EQ(npu.device.read(FLEX_NPU_REG_LAUNCH_NS), 5000u);
}

TEST(LocalMemoryTest, gives_the_device_this_process_memory_or_parts_of_it) {
    struct Pages {
        alignas(4096) std::array<std::uint64_t, 512> table{}, pages{};
        alignas(4096) std::array<float, 1024> x{}, y{};
    };
    const auto p = std::make_unique<Pages>();
    p->table[0] = LocalMemory::bus_address(&p->pages);
    p->pages[0] = LocalMemory::bus_address(&p->x);
    p->pages[1] = LocalMemory::bus_address(&p->y);
    p->x.fill(1);
    TestJob job;
    job.regions.push_back({LocalMemory::bus_address(&p->table), 8192});
    flex_npu_command c = command(FLEX_NPU_ADD);
    c.columns = 1024;
    c.y.offset = 4096;
    job.commands.push_back(c);
    LocalMemory all;
    Device device(all, *engine::select_kernels());
    EXPECT_EQ(device.run(job.bytes()).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    EXPECT_EQ(p->y[1023], 1.0F);
    const auto bytes = std::as_writable_bytes(std::span(p.get(), 1));
    LocalMemory without_y({bytes.first(bytes.size() - sizeof p->y)});
    Device careful(without_y, *engine::select_kernels());
    EXPECT_EQ(careful.run(job.bytes()).address, p->pages[1]);
}

} // namespace
} // namespace flex::npu::model::testing
