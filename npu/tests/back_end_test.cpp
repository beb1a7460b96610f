// The vhost-user side: rings and jobs behind an SMMU that grants, refuses and takes back.
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "npu/tests/front_end.h"
#include "npu/tests/shared.h"

namespace flex::npu::vhost_user::testing {
namespace {

using model::testing::command;
using model::testing::TestJob;

constexpr std::uint64_t kJob = FrontEnd::kFree, kResult = kJob + 0x4000, kTable = kJob + 0x5000,
                        kPages = kJob + 0x6000, kData = kJob + 0x7000, kFar = 0x9'0000'0000;
constexpr std::size_t kFloats = 64;

/// One region of three pages at kData, and jobs on it: y = [64] floats at 0, x = [64] at 4096, a word at
/// 8192.
class BackEndTest : public ::testing::Test {
protected:
    BackEndTest() {
        *front.at<std::uint64_t>(kTable) = kPages;
        for (std::uint64_t i = 0; i < 3; ++i) front.at<std::uint64_t>(kPages)[i] = kData + i * 4096;
        for (std::size_t i = 0; i < kFloats; ++i) {
            y()[i] = static_cast<float>(i);
            x()[i] = 1.5F;
        }
        for (std::uint32_t i = 0; i < kRings; ++i) front.start_ring(i);
    }

    float* y() { return front.at<float>(kData); }
    float* x() { return front.at<float>(kData + 4096); }
    std::atomic<std::uint64_t>& word() { return *front.at<std::atomic<std::uint64_t>>(kData + 8192); }

    static flex_npu_command add() {
        flex_npu_command c = command(FLEX_NPU_ADD);
        c.columns = kFloats;
        c.x = {0, 0, 4096};
        return c;
    }
    static flex_npu_command wait_for_one() {
        flex_npu_command c = command(FLEX_NPU_WAIT, FLEX_NPU_WAIT_US_MAX);
        c.x = {0, 0, 8192};
        c.u.fence.scalar64 = 1;
        return c;
    }
    /// Puts a job into memory: its pieces, cut in three.
    std::vector<FrontEnd::Piece> job(const std::vector<flex_npu_command>& commands, std::uint64_t at = kJob) {
        TestJob job;
        job.regions = {{kTable, 3 * 4096}};
        job.commands = commands;
        const auto bytes = job.bytes();
        std::memcpy(front.at<std::byte>(at), bytes.data(), bytes.size());
        const auto rest = static_cast<std::uint32_t>(bytes.size() - 50);
        return {{at, 20, false}, {at + 20, 30, false}, {at + 50, rest, false}, {kResult, 64, true}};
    }
    flex_npu_result run(const std::vector<flex_npu_command>& commands, std::uint32_t ring = 0) {
        front.submit(ring, job(commands));
        EXPECT_EQ(front.wait_used(ring, ++done[ring]), sizeof(flex_npu_result));
        return *front.at<flex_npu_result>(kResult);
    }
    /// From here on the rings themselves are translated: a MISS is one of a job's.
    void settle() {
        for (std::uint32_t ring = 0; ring < kRings; ++ring) run({command(FLEX_NPU_NOP)}, ring);
    }
    void expect_added(float times) {
        for (std::size_t i = 0; i < kFloats; ++i) ASSERT_EQ(y()[i], static_cast<float>(i) + 1.5F * times);
    }
    /// Until the device has taken a job and runs it.
    void wait_running() {
        while (front.read(FLEX_NPU_REG_STATUS) != 1) std::this_thread::yield();
    }

    FrontEnd front;
    std::array<std::uint16_t, kRings> done{};
};

TEST_F(BackEndTest, runs_jobs_of_all_rings_and_reads_memory_where_the_smmu_says) {
    for (std::uint32_t ring = 0; ring < kRings; ++ring) {
        const flex_npu_result result = run({add(), command(FLEX_NPU_NOP)}, ring);
        EXPECT_EQ(result.status, static_cast<std::uint32_t>(FLEX_NPU_OK));
        EXPECT_EQ(result.command, 2u);
        EXPECT_EQ(result.cookie, TestJob{}.cookie);
        EXPECT_EQ(result.bytes, 3 * kFloats * 4);
        expect_added(static_cast<float>(ring + 1));
    }
    // The same place under another address, elsewhere in memory.
    front.map(kFar, 4096, kData - FrontEnd::kIova, FrontEnd::kBoth);
    front.at<std::uint64_t>(kPages)[0] = kFar;
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    expect_added(kRings + 1);
}

TEST_F(BackEndTest, a_refused_address_ends_the_job_and_not_the_device) {
    front.at<std::uint64_t>(kPages)[0] = kFar;
    const flex_npu_result refused = run({command(FLEX_NPU_NOP), add()});
    EXPECT_EQ(refused.status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
    EXPECT_EQ(refused.command, 1u);
    EXPECT_EQ(refused.address, kFar);
    EXPECT_EQ(front.read(FLEX_NPU_REG_FAULTS), 1u);
    front.at<std::uint64_t>(kPages)[0] = kData;
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    expect_added(1);
}

TEST_F(BackEndTest, a_page_that_was_read_is_not_written_without_permission) {
    front.map(kFar, 4096, kData - FrontEnd::kIova, FrontEnd::kReadOnly);
    front.at<std::uint64_t>(kPages)[0] = kFar;
    const flex_npu_result refused =
        run({add()}); // reads y first, for which QEMU's update says "read and write"
    EXPECT_EQ(refused.status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
    EXPECT_EQ(refused.address, kFar);
    expect_added(0);

    front.map(kFar, 4096, kData - FrontEnd::kIova, FrontEnd::kWriteOnly);
    front.invalidate(kFar, 4096);
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
    expect_added(0);
}

TEST_F(BackEndTest, keeps_translations_until_they_are_taken_back) {
    settle();
    run({add()});
    const unsigned asked = front.misses;
    run({add()});
    EXPECT_EQ(front.misses, asked);
    front.unmap(kData, 4096);
    const flex_npu_result refused = run({add()});
    EXPECT_EQ(refused.status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
    EXPECT_EQ(refused.address, kData);
    expect_added(2);
    front.map(kData, 4096, kData - FrontEnd::kIova, FrontEnd::kBoth);
    const unsigned before = front.misses;
    front.invalidate(kFar, 0); // everything
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    EXPECT_GT(front.misses, before + 5); // rings, job, result, tables, operands
    expect_added(3);
}

TEST_F(BackEndTest, an_invalidation_that_overtakes_an_answer_makes_it_ask_again) {
    std::atomic<unsigned> times{0};
    const FrontEnd::Hook overtake = [&](std::uint64_t page) {
        if (page == kData && ++times <= 3) front.invalidate(page, 4096);
    };
    for (const bool before_update : {true, false}) {
        times = 0;
        before_update ? front.before_update(overtake) : front.before_answer(overtake);
        front.invalidate(kData, 4096);
        EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
        EXPECT_EQ(times, 3u + 2u); // and then once for reading and once for writing
        front.before_update({});
        front.before_answer({});
    }
    expect_added(2);
}

TEST_F(BackEndTest, stopping_a_ring_abandons_its_job_and_starting_it_again_takes_it_up) {
    front.submit(1, job({wait_for_one(), add()}));
    wait_running();
    EXPECT_EQ(front.stop_ring(1), 0u); // the job counts as not taken
    word() = 1;
    front.invalidate(0, 0);
    expect_added(0);
    EXPECT_EQ(front.used(1), 0u);
    front.start_ring(1, 0);
    EXPECT_EQ(front.wait_used(1, 1), sizeof(flex_npu_result));
    EXPECT_EQ(front.at<flex_npu_result>(kResult)->status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    expect_added(1);
}

TEST_F(BackEndTest, stopping_a_ring_leaves_the_jobs_of_others_alone) {
    front.submit(1, job({wait_for_one(), add()}));
    wait_running();
    EXPECT_EQ(front.stop_ring(2), 0u);
    word() = 1;
    EXPECT_EQ(front.wait_used(1, 1), sizeof(flex_npu_result));
    expect_added(1);
}

TEST_F(BackEndTest, when_the_last_ring_stops_nothing_of_the_past_is_left) {
    front.write(FLEX_NPU_REG_SCRATCH + 3, 0xcafe);
    run({add()});
    front.write(FLEX_NPU_REG_SRAM_ADDRESS, 0);
    std::uint32_t seen = 0;
    const auto sram_bytes = front.read(FLEX_NPU_REG_SRAM_BYTES);
    front.write(FLEX_NPU_REG_SRAM_ADDRESS, model::Sram::kSharedBytes);
    for (int i = 0; i < 8; ++i) seen |= front.read(FLEX_NPU_REG_SRAM_DATA);
    EXPECT_NE(seen, 0u);
    for (std::uint32_t ring = 0; ring < kRings; ++ring) front.stop_ring(ring);
    EXPECT_EQ(front.configuration()[1], 0u); // DATA
    EXPECT_EQ(front.configuration()[2], 0u); // VALUE
    EXPECT_EQ(front.read(FLEX_NPU_REG_SCRATCH + 3), 0u);
    EXPECT_EQ(front.read(FLEX_NPU_REG_JOBS), 0u);
    EXPECT_EQ(front.read(FLEX_NPU_REG_SRAM_BYTES), sram_bytes);
    front.write(FLEX_NPU_REG_SRAM_ADDRESS, model::Sram::kSharedBytes);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(front.read(FLEX_NPU_REG_SRAM_DATA), 0u);
    for (std::uint32_t ring = 0; ring < kRings; ++ring) front.start_ring(ring, done[ring]);
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK)); // as after QEMU's reset
}

TEST_F(BackEndTest, reset_works_while_nobody_answers_a_miss) {
    settle();
    run({add()});
    front.unmap(kData, 4096);
    front.map(kData, 4096, kData - FrontEnd::kIova, FrontEnd::kBoth);
    const unsigned asked = front.misses;
    front.silent = true;
    front.submit(0, job({add()}));
    while (front.misses == asked) std::this_thread::yield();
    front.configure({FLEX_NPU_ACCESS_RESET, 1, 1});
    EXPECT_EQ(front.configuration(), (std::array<std::uint32_t, 3>{}));
    front.silent = false;
    EXPECT_EQ(front.wait_used(0, ++done[0]), sizeof(flex_npu_result));
    EXPECT_EQ(front.at<flex_npu_result>(kResult)->status, static_cast<std::uint32_t>(FLEX_NPU_ABORTED));
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    expect_added(2);
}

TEST_F(BackEndTest, a_bad_chain_ends_that_chain_only) {
    const auto good = job({add()});
    const auto bad = [&](const char* what) {
        EXPECT_EQ(front.wait_used(0, ++done[0]), 0u) << what;
        EXPECT_EQ(run({command(FLEX_NPU_NOP)}).status, static_cast<std::uint32_t>(FLEX_NPU_OK)) << what;
    };
    front.submit(0, {good[0], good[1], good[2]});
    bad("no room for the result");
    front.submit(0, {good[3], good[0]});
    bad("what is read behind what is written");
    front.set_descriptor(0, 0, {kJob, 20, false}, 1, 1);
    front.set_descriptor(0, 1, {kJob, 20, false}, 1, 0);
    front.make_available(0, 0);
    bad("a circle");
    front.set_descriptor(0, 0, {kJob, 20, false}, 1, FrontEnd::kRingSize);
    front.make_available(0, 0);
    bad("a descriptor that does not exist");
    front.set_descriptor(0, 0, {kJob, 32, false}, 4, 0);
    front.make_available(0, 0);
    bad("an indirect table, which was not agreed on");
    expect_added(0);

    auto long_job = good;
    long_job[0].bytes = FLEX_NPU_JOB_BYTES;
    front.submit(0, long_job);
    EXPECT_EQ(front.wait_used(0, ++done[0]), sizeof(flex_npu_result));
    EXPECT_EQ(front.at<flex_npu_result>(kResult)->status, static_cast<std::uint32_t>(FLEX_NPU_BAD_JOB));
    auto far_job = good;
    far_job[1].iova = kFar;
    front.submit(0, far_job);
    EXPECT_EQ(front.wait_used(0, ++done[0]), sizeof(flex_npu_result));
    EXPECT_EQ(front.at<flex_npu_result>(kResult)->status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
    EXPECT_EQ(front.at<flex_npu_result>(kResult)->address, kFar);
    auto far_result = good;
    far_result[3].iova = kFar;
    front.submit(0, far_result);
    bad("a result that may not be written");
}

TEST_F(BackEndTest, a_broken_ring_is_reported_and_the_others_go_on) {
    front.make_available(2, FrontEnd::kRingSize);
    EXPECT_TRUE(front.wait_error(2));
    EXPECT_EQ(run({add()}, 3).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    front.stop_ring(2);
}

TEST_F(BackEndTest, a_register_is_accessed_when_the_access_word_changes_and_only_then) {
    EXPECT_EQ(front.read(FLEX_NPU_REG_ID), FLEX_NPU_ID);
    const std::uint32_t set = FLEX_NPU_ACCESS(200, FLEX_NPU_REG_SCRATCH) | FLEX_NPU_ACCESS_WRITE;
    front.configure({set, 5, 0});
    EXPECT_EQ(front.configuration(), (std::array<std::uint32_t, 3>{set, 5, 5}));
    front.configure({set, 6, 99}); // DATA changes, the access has been made
    EXPECT_EQ(front.configuration(), (std::array<std::uint32_t, 3>{set, 6, 5}));
    front.configure({FLEX_NPU_ACCESS(201, FLEX_NPU_REG_SCRATCH), 6, 0});
    EXPECT_EQ(front.configuration()[2], 5u);
}

// Otherwise who asks for a reset in the words that the other world left there would not have one.
TEST_F(BackEndTest, a_reset_is_made_whatever_the_access_word_was_before) {
    for (const std::uint32_t before : {0u, FLEX_NPU_ACCESS_RESET, FLEX_NPU_ACCESS_RESET | 7, ~0u}) {
        front.write(FLEX_NPU_REG_SCRATCH, 5);
        front.configure({before, 1, 2});
        front.write(FLEX_NPU_REG_SCRATCH + 1, 6);
        EXPECT_EQ(front.read(FLEX_NPU_REG_SCRATCH + 1), 6u);
        front.configure({FLEX_NPU_ACCESS_RESET, 1, 2});
        EXPECT_EQ(front.configuration(), (std::array<std::uint32_t, 3>{}));
        for (const std::uint32_t reg : {0, 1}) EXPECT_EQ(front.read(FLEX_NPU_REG_SCRATCH + reg), 0u) << before;
    }
}

TEST_F(BackEndTest, messages_that_make_no_sense_are_refused_and_the_next_ones_served) {
    EXPECT_NE(front.request(static_cast<Request>(77), std::uint64_t{0}), 0u);
    EXPECT_NE(front.request(Request::kSetRingNumber, RingState{kRings, 16}), 0u);
    EXPECT_EQ(front.request(Request::kSetRingNumber, RingState{2, 16}), 0u)
        << "a ring that runs is stopped first";
    EXPECT_NE(front.request(Request::kSetRingEnable, std::uint32_t{0}), 0u);
    EXPECT_NE(front.request(Request::kSetFeatures, ~std::uint64_t{0}), 0u);
    EXPECT_NE(front.request(Request::kSetMemoryTable, MemoryTable{9, 0, {}}), 0u);
    EXPECT_NE(front.request(Request::kSetRingKick, std::uint64_t{0x100}), 0u);
    EXPECT_NE(front.request(Request::kIotlb, Iotlb{0, 1, 0, 3, IotlbType::kMiss, {}}), 0u);
    const Iotlb outside{
        kFar, 4096, FrontEnd::kUserAddress + FrontEnd::kMemoryBytes - 1, 3, IotlbType::kUpdate, {}};
    EXPECT_NE(front.request(Request::kIotlb, outside), 0u);
    const Iotlb around{~std::uint64_t{0}, 4096, FrontEnd::kUserAddress, 3, IotlbType::kUpdate, {}};
    EXPECT_NE(front.request(Request::kIotlb, around), 0u);
    EXPECT_NE(front.request(Request::kSetConfiguration, Configuration{0, 12, 0}), 0u);
    front.stop_ring(3);
    EXPECT_NE(front.request(Request::kSetRingNumber, RingState{3, 3}), 0u);
    EXPECT_NE(front.request(Request::kSetRingAddress, RingAddress{3, 0, 1, 0, 0, 0}), 0u);
    EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
}

TEST_F(BackEndTest, an_unwanted_update_grants_nothing) {
    const Iotlb gift{kFar, 4096, FrontEnd::kUserAddress + (kData - FrontEnd::kIova), 3, IotlbType::kUpdate,
                     {}};
    settle();
    for (const std::uint64_t page : {1, 0}) { // to be read, and to be written
        EXPECT_EQ(front.request(Request::kIotlb, gift), 0u);
        front.at<std::uint64_t>(kPages)[page] = kFar;
        EXPECT_EQ(run({add()}).status, static_cast<std::uint32_t>(FLEX_NPU_FAULT));
        front.at<std::uint64_t>(kPages)[page] = kData + page * 4096;
    }
}

TEST_F(BackEndTest, ends_when_the_machine_goes_even_with_a_job_and_a_miss_under_way) {
    front.submit(1, job({wait_for_one()}));
    wait_running();
    front.hang_up(); // returns: the back end is gone
    EXPECT_EQ(front.used(1), 0u);
}

/// A new file of two pages at user address 0x1000.
Message two_pages(const Fd& file) {
    EXPECT_EQ(ftruncate(file.get(), 8192), 0);
    Message message;
    const MemoryTable table{1, 0, {{0, 8192, 0x1000, 0}}};
    message.header.size = 8 + sizeof(MemoryRegion);
    std::memcpy(message.payload.data(), &table, message.header.size);
    message.fds.emplace_back(dup(file.get()));
    return message;
}

/// Translations over two_pages(), and the other end of their channel.
struct TranslationsTest : ::testing::Test {
    TranslationsTest() {
        EXPECT_TRUE(translations.set_memory(two_pages(file)));
        int fds[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        qemu = std::make_unique<Channel>(Fd(fds[0]));
        translations.set_channel(Fd(fds[1]));
    }
    /// Answers a MISS with this translation.
    void grant(const Iotlb& entry) {
        Message question;
        ASSERT_TRUE(qemu->receive(question));
        ASSERT_TRUE(translations.update(entry));
        qemu->send(kBackEndIotlb, kReply, bytes_of(std::uint64_t{0}));
    }
    /// The window of an open() that asks, and is granted `entry`.
    model::Window open(std::uint64_t address, std::uint64_t bytes, const Iotlb& entry) {
        std::thread answering([&] { grant(entry); });
        const model::Window window = translations.open(address, bytes, model::Access::kRead);
        answering.join();
        EXPECT_EQ(window.status, model::Window::Status::kOpen);
        return window;
    }

    const Fd file{memfd_create("npu-test", MFD_CLOEXEC)};
    Translations translations;
    std::unique_ptr<Channel> qemu;
};

TEST_F(TranslationsTest, pages_that_lie_together_on_both_sides_are_one_window) {
    const std::byte* const second = open(0x6000, 1, {0x6000, 0x1000, 0x2000, 3, IotlbType::kUpdate, {}}).data;
    translations.close();
    const model::Window window = open(0x5ff0, 0x30, {0x5000, 0x1000, 0x1000, 3, IotlbType::kUpdate, {}});
    translations.close();
    EXPECT_EQ(window.data, second - 0x10);
    // As far as it was looked up when the first page was granted: now both are there.
    EXPECT_EQ(window.bytes, 0x30u);
    EXPECT_EQ(translations.open(0x5000, 0x10000, model::Access::kRead).bytes, 0x2000u);
    translations.close();
    // The second page goes to another place: what is left of the window is the first.
    translations.invalidate({0x6000, 0x1000, 0, 0, IotlbType::kInvalidate, {}});
    EXPECT_EQ(translations.open(0x5000, 0x10000, model::Access::kRead).bytes, 0x1000u);
    translations.close();
    open(0x6000, 1, {0x6000, 0x1000, 0x1000, 3, IotlbType::kUpdate, {}});
    translations.close();
    EXPECT_EQ(translations.open(0x5000, 0x10000, model::Access::kRead).bytes, 0x1000u);
    translations.close();
}

/// Pages that an operand goes on with.
struct NextPages final : model::Ahead {
    explicit NextPages(std::vector<std::uint64_t> all) : addresses(std::move(all)) {}
    std::size_t pages(std::span<std::uint64_t> out) const override {
        const std::size_t count = std::min(out.size(), addresses.size());
        std::copy_n(addresses.begin(), count, out.begin());
        return count;
    }
    std::vector<std::uint64_t> addresses;
};

/// An open() of 0x5000 that is granted, and then asks for what comes next: `answer` gets those questions
/// together.
class TranslationsAheadTest : public TranslationsTest {
protected:
    static Iotlb page(std::uint64_t address, std::uint64_t user_address = 0x1000) {
        return {address, 0x1000, user_address, 3, IotlbType::kUpdate, {}};
    }
    std::uint64_t next_question() {
        Message message;
        Iotlb question{};
        EXPECT_TRUE(qemu->receive(message) && message.read(question));
        EXPECT_NE(message.header.flags & kNeedReply, 0u);
        return question.address;
    }
    void answer(std::uint64_t status) { qemu->send(kBackEndIotlb, kReply, bytes_of(status)); }
    template <class Answer> void open_with(const std::vector<std::uint64_t>& next, const Answer& answers) {
        std::thread answering([&] {
            grant(page(0x5000));
            answers();
        });
        const NextPages ahead(next);
        EXPECT_EQ(translations.open(0x5000, 1, model::Access::kRead, &ahead).status,
                  model::Window::Status::kOpen);
        translations.close();
        answering.join();
    }
    /// Whether it is there without asking.
    bool knows(std::uint64_t address, model::Access access = model::Access::kRead) {
        translations.interrupt(true);
        const bool open = translations.open(address, 1, access).status == model::Window::Status::kOpen;
        if (open) translations.close();
        translations.interrupt(false);
        return open;
    }
};

TEST_F(TranslationsAheadTest, pages_that_come_next_are_asked_for_before_the_first_of_them_is_answered) {
    open_with({0x6000, 0x5000, 0x9000, 0x7000}, [&] {
        for (const std::uint64_t address : {0x6000, 0x9000, 0x7000}) // and not what it has
            EXPECT_EQ(next_question(), address);
        for (const std::uint64_t address : {0x6000, 0x9000, 0x7000}) {
            EXPECT_TRUE(translations.update(page(address)));
            answer(0);
        }
    });
    for (const std::uint64_t address : {0x6000, 0x9000, 0x7000}) EXPECT_TRUE(knows(address));
    EXPECT_FALSE(knows(0x6000, model::Access::kWrite));
}

TEST_F(TranslationsAheadTest, what_a_large_grant_shows_already_is_not_asked_for) {
    std::thread answering([&] { grant({0x4000, 0x2000, 0x1000, 3, IotlbType::kUpdate, {}}); });
    const NextPages ahead({0x5000});
    EXPECT_EQ(translations.open(0x4000, 1, model::Access::kRead, &ahead).bytes, 1u);
    translations.close();
    answering.join();
    std::thread next([&] { grant(page(0x8000)); }); // the next question is the next access's
    EXPECT_EQ(translations.open(0x8000, 1, model::Access::kRead).status, model::Window::Status::kOpen);
    translations.close();
    next.join();
}

TEST_F(TranslationsAheadTest, a_page_ahead_that_is_refused_is_asked_for_again_when_it_is_accessed) {
    open_with({0x6000, 0x7000}, [&] {
        EXPECT_EQ(next_question(), 0x6000u);
        EXPECT_EQ(next_question(), 0x7000u);
        answer(1);
        EXPECT_TRUE(translations.update(page(0x7000)));
        answer(0);
    });
    EXPECT_TRUE(knows(0x7000));
    std::thread refusing([&] {
        EXPECT_EQ(next_question(), 0x6000u);
        answer(1);
    });
    EXPECT_EQ(translations.open(0x6000, 1, model::Access::kRead).status, model::Window::Status::kRefused);
    refusing.join();
}

TEST_F(TranslationsAheadTest, updates_of_several_questions_may_come_in_any_order_and_others_grant_nothing) {
    open_with({0x6000, 0x7000}, [&] {
        EXPECT_EQ(next_question(), 0x6000u);
        EXPECT_EQ(next_question(), 0x7000u);
        EXPECT_TRUE(translations.update(page(0x7000, 0x2000)));
        EXPECT_TRUE(translations.update(page(0x8000))); // nobody asked
        answer(0);
        EXPECT_TRUE(translations.update(page(0x6000)));
        answer(0);
    });
    EXPECT_TRUE(knows(0x6000));
    EXPECT_TRUE(knows(0x7000));
    EXPECT_FALSE(knows(0x8000));
}

TEST_F(TranslationsAheadTest, after_an_invalidation_no_update_of_earlier_questions_is_taken) {
    open_with({0x6000, 0x7000}, [&] {
        EXPECT_EQ(next_question(), 0x6000u);
        EXPECT_EQ(next_question(), 0x7000u);
        EXPECT_TRUE(translations.update(page(0x6000)));
        answer(0);
        translations.invalidate({0x7000, 0x1000, 0, 0, IotlbType::kInvalidate, {}});
        EXPECT_TRUE(translations.update(page(0x7000))); // may have been looked up before
        answer(0);
    });
    EXPECT_TRUE(knows(0x6000));
    EXPECT_FALSE(knows(0x7000));
}

TEST_F(TranslationsAheadTest, late_answers_to_abandoned_questions_are_not_taken_for_those_of_the_next) {
    open_with({0x6000, 0x7000, 0x8000}, [&] {
        for (int i = 0; i < 3; ++i) next_question();
        answer(1);
        translations.interrupt(true);
    });
    translations.interrupt(false);
    std::thread late([&] {
        EXPECT_TRUE(translations.update(page(0x7000))); // nobody wants it any more
        answer(1);
        answer(1);
        grant(page(0x6000));
    });
    EXPECT_EQ(translations.open(0x6000, 1, model::Access::kRead).status, model::Window::Status::kOpen);
    translations.close();
    late.join();
    EXPECT_FALSE(knows(0x7000));
}

TEST_F(TranslationsTest, memory_that_is_shown_again_stays_where_it_is_and_other_memory_does_not) {
    const Iotlb entry{0x5000, 0x1000, 0x1000, 3, IotlbType::kUpdate, {}};
    const std::byte* const data = open(0x5000, 1, entry).data;
    translations.close();
    EXPECT_TRUE(translations.set_memory(two_pages(file)));
    EXPECT_EQ(open(0x5000, 1, entry).data, data) << "and the translation was asked for again";
    translations.close();

    const Fd other(memfd_create("npu-test", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(other.get(), 8192), 0);
    ASSERT_EQ(pwrite(other.get(), "x", 1, 0), 1);
    EXPECT_TRUE(translations.set_memory(two_pages(other)));
    EXPECT_EQ(*open(0x5000, 1, entry).data, std::byte{'x'});
    translations.close();
    Message malformed = two_pages(file);
    malformed.fds.clear();
    EXPECT_FALSE(translations.set_memory(malformed));
    EXPECT_EQ(*open(0x5000, 1, entry).data, std::byte{'x'});
    translations.close();
}

TEST_F(TranslationsTest, an_invalidation_is_done_when_the_last_access_is) {
    const model::Window window = open(0x5ff0, 0x100, {0x5000, 0x1000, 0x1000, 3, IotlbType::kUpdate, {}});
    ASSERT_EQ(window.status, model::Window::Status::kOpen);
    EXPECT_EQ(window.bytes, 0x10u); // to the end of what was granted

    std::atomic<bool> acknowledged{false};
    std::thread invalidating([&] {
        translations.invalidate({0x5000, 0x1000, 0, 0, IotlbType::kInvalidate, {}});
        acknowledged = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(acknowledged);
    translations.close();
    invalidating.join();
    std::thread refusing([&] {
        Message question;
        ASSERT_TRUE(qemu->receive(question));
        qemu->send(kBackEndIotlb, kReply, bytes_of(std::uint64_t{1}));
    });
    EXPECT_EQ(translations.open(0x5ff0, 1, model::Access::kRead).status, model::Window::Status::kRefused);
    refusing.join();
}

TEST_F(TranslationsTest, no_core_has_a_window_open_when_an_invalidation_returns) {
    std::mutex smmu; // what is granted changes, and is told, as one step
    bool granted = true;
    std::atomic<bool> taken_back{false}, stop{false};
    std::atomic<unsigned> opened{0}, wrong{0};
    std::thread answering([&] {
        Message question;
        while (qemu->receive(question)) {
            const std::lock_guard lock(smmu);
            if (granted) translations.update({0x5000, 0x1000, 0x1000, 3, IotlbType::kUpdate, {}});
            qemu->send(kBackEndIotlb, kReply, bytes_of(std::uint64_t{granted ? 0u : 1u}));
        }
    });
    std::vector<std::thread> cores;
    for (int i = 0; i < 3; ++i) {
        cores.emplace_back([&] {
            while (!stop) {
                if (translations.open(0x5000, 8, model::Access::kRead).status != model::Window::Status::kOpen)
                    continue;
                std::this_thread::yield();
                wrong += taken_back;
                translations.close();
                ++opened;
            }
        });
    }
    for (unsigned round = 0; round < 300; ++round) {
        for (const unsigned before = opened; opened == before;) std::this_thread::yield();
        {
            const std::lock_guard lock(smmu);
            granted = false;
            translations.invalidate({0x5000, 0x1000, 0, 0, IotlbType::kInvalidate, {}});
        }
        taken_back = true;
        std::this_thread::yield();
        taken_back = false;
        const std::lock_guard lock(smmu);
        granted = true;
    }
    stop = true;
    for (std::thread& core : cores) core.join();
    shutdown(qemu->fd(), SHUT_RDWR);
    answering.join();
    EXPECT_EQ(wrong, 0u);
}

} // namespace
} // namespace flex::npu::vhost_user::testing
