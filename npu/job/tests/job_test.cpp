// Jobs never go beyond what the NPU takes.
#include "npu/job/job.h"

#include <gtest/gtest.h>

#include <cstring>

namespace flex::npu {
namespace {

constexpr Place at(std::uint32_t region, std::uint64_t offset = 0) { return {Region{region}, offset}; }

flex_npu_region somewhere(Region region) {
    return {std::uint64_t{FLEX_NPU_PAGE} * static_cast<std::uint32_t>(region), 1u << 20};
}

TEST(Job, is_written_as_the_interface_says) {
    Job job;
    job.matmul_gate({at(7, 64), 100, 64}, at(9, 4), at(9, 8), 3, at(9, 16));
    ASSERT_TRUE(job.ok());
    alignas(8) std::byte bytes[kJobBytes];
    const std::size_t written = job.write(bytes, 42, somewhere);
    ASSERT_EQ(written, sizeof(flex_npu_job) + 2 * sizeof(flex_npu_region) + sizeof(flex_npu_command));
    flex_npu_job header;
    std::memcpy(&header, bytes, sizeof header);
    EXPECT_EQ(header.magic, FLEX_NPU_JOB_MAGIC);
    EXPECT_EQ(header.version, FLEX_NPU_VERSION);
    EXPECT_EQ(header.regions, 2u);
    EXPECT_EQ(header.commands, 1u);
    EXPECT_EQ(header.cookie, 42u);
    flex_npu_region regions[2];
    std::memcpy(regions, bytes + sizeof header, sizeof regions);
    EXPECT_EQ(regions[0].table, 7 * FLEX_NPU_PAGE);
    EXPECT_EQ(regions[1].table, 9 * FLEX_NPU_PAGE);
    flex_npu_command command;
    std::memcpy(&command, bytes + sizeof header + sizeof regions, sizeof command);
    EXPECT_EQ(command.op, FLEX_NPU_MATMUL);
    EXPECT_EQ(command.flags, FLEX_NPU_GATE);
    EXPECT_EQ(command.count, 3u);
    EXPECT_EQ(command.w.region, 0u);
    EXPECT_EQ(command.w.offset, 64u);
    EXPECT_EQ(command.z.region, 1u);
    EXPECT_EQ(command.z.offset, 8u);
}

TEST(Job, norms_of_more_rows_than_a_command_takes_are_several_commands) {
    Job job;
    job.rms_norm(at(1), at(2), 2 * FLEX_NPU_COUNT_MAX + 5, 16, 1e-6F, at(1));
    ASSERT_TRUE(job.ok());
    ASSERT_EQ(job.commands().size(), 3u);
    EXPECT_EQ(job.commands()[1].count, FLEX_NPU_COUNT_MAX);
    EXPECT_EQ(job.commands()[2].count, 5u);
    EXPECT_EQ(job.commands()[2].x.offset, 2ull * FLEX_NPU_COUNT_MAX * 16 * sizeof(float));
    EXPECT_EQ(job.commands()[2].w.offset, 0u);
}

TEST(Job, too_many_commands_or_regions_or_none_at_all_make_it_bad) {
    Job job;
    EXPECT_FALSE(job.ok());
    alignas(8) std::byte bytes[kJobBytes];
    for (std::size_t i = 0; i < kJobCommands; ++i) job.matmul({at(1), 16, 32}, at(1), 1, at(1));
    EXPECT_TRUE(job.ok());
    EXPECT_GT(job.write(bytes, 1, somewhere), 0u);
    job.matmul({at(1), 16, 32}, at(1), 1, at(1));
    EXPECT_FALSE(job.ok());
    EXPECT_EQ(job.write(bytes, 1, somewhere), 0u);
    job.clear();
    for (std::uint32_t i = 1; i <= FLEX_NPU_REGIONS_MAX; ++i) job.matmul({at(i), 16, 32}, at(i), 1, at(i));
    EXPECT_TRUE(job.ok());
    job.matmul({at(99), 16, 32}, at(1), 1, at(1));
    EXPECT_FALSE(job.ok());
}

TEST(Job, fields_beyond_their_range_make_it_bad) {
    const auto bad = [](const auto& fill) {
        Job job;
        fill(job);
        EXPECT_FALSE(job.commands().empty());
        return !job.ok();
    };
    EXPECT_TRUE(bad([](Job& j) { j.matmul({at(1), 16, 33}, at(1), 1, at(1)); }));
    EXPECT_TRUE(bad([](Job& j) { j.matmul({at(1), 0, 32}, at(1), 1, at(1)); }));
    EXPECT_TRUE(bad([](Job& j) { j.matmul({at(1), FLEX_NPU_ROWS_MAX + 1, 32}, at(1), 1, at(1)); }));
    EXPECT_TRUE(bad([](Job& j) { j.matmul({at(1), 16, 32}, at(1), FLEX_NPU_COUNT_MAX + 1, at(1)); }));
    EXPECT_TRUE(bad([](Job& j) { j.matmul({at(1), 16, 32}, at(1), 0, at(1)); }));
    EXPECT_TRUE(bad([](Job& j) { j.matmul({at(1), 16, 32}, {}, 1, at(1)); })) << "an operand nowhere";
    EXPECT_TRUE(bad([](Job& j) { j.rope(at(1), at(1), at(1), 1, 4, 32, 17, false); }));
    EXPECT_TRUE(bad([](Job& j) { j.rope(at(1), at(1), at(1), 1, 1025, 32, 16, false); }));
    KvPlace kv{at(1), at(2), 1, 1, 4096, 2, 1, 2, 32};
    EXPECT_FALSE(bad([&](Job& j) { j.attention(kv, 1, 4, at(3), at(3)); }));
    EXPECT_TRUE(bad([&](Job& j) { j.attention(kv, 2, 4, at(3), at(3)); })) << "no such layer";
    EXPECT_TRUE(bad([&](Job& j) { j.attention(kv, 1, 5, at(3), at(3)); })) << "no multiple of kv_heads";
    kv.block_list = 0;
    EXPECT_TRUE(bad([&](Job& j) { j.kv_store(kv, 1, at(3), at(3)); }));
}

TEST(Job, a_region_that_is_not_mapped_any_more_makes_no_job) {
    Job job;
    job.matmul({at(1), 16, 32}, at(2), 1, at(2));
    alignas(8) std::byte bytes[kJobBytes];
    EXPECT_EQ(
        job.write(bytes, 1,
                  [](Region region) { return region == Region{2} ? flex_npu_region{} : somewhere(region); }),
        0u);
}

} // namespace
} // namespace flex::npu
