/* Answers of the normal world: only those that keep to the request are believed. Slots: only those that are
 * out are completed. */
#include "abi/frame.h"
#include "core/files.hpp"
#include "core/futex.hpp"
#include "core/rpc.hpp"

#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

using namespace flex::tos;

namespace {

RpcRequest request(u32 op, u64 arg0 = 0, u64 arg1 = 0, u64 arg2 = 0, u32 data_len = 0) {
    return {op, data_len, {arg0, arg1, arg2}};
}
RpcAnswer answer(i64 result, u32 data_len = 0, u64 out0 = 0) { return {result, data_len, {out0}}; }
bool valid(const RpcRequest& r, const RpcAnswer& a) { return answer_is_valid(r, a); }

Span<const char> span(const std::string& text) { return {text.data(), text.size()}; }

} // namespace

TEST(RpcAnswer, errors_are_believed_but_only_real_ones) {
    for (const u32 op : {FLEX_RPC_ALLOC, FLEX_RPC_READ, FLEX_RPC_OPEN, FLEX_RPC_POLL}) {
        EXPECT_TRUE(valid(request(op), answer(-12)));
        EXPECT_TRUE(valid(request(op), answer(-4095, 0xffffffff)));
        EXPECT_FALSE(valid(request(op), answer(-4096)));
        EXPECT_FALSE(valid(request(op), answer(INT64_MIN)));
    }
}

TEST(RpcAnswer, data_is_never_longer_than_what_was_asked_for) {
    const RpcRequest read = request(FLEX_RPC_READ, 3, 0, 100);
    EXPECT_TRUE(valid(read, answer(100, 100)));
    EXPECT_TRUE(valid(read, answer(0, 0)));
    EXPECT_FALSE(valid(read, answer(101, 101)));
    EXPECT_FALSE(valid(read, answer(100, 99))) << "a length that contradicts the result";
    EXPECT_FALSE(valid(read, answer(INT64_MAX, 100)));
    EXPECT_FALSE(valid(read, answer(i64{1} << 32, 0))) << "equal to the length only in 32 bits";
    const RpcRequest receive = request(FLEX_RPC_RECEIVE, 3, 100, 1 << 20);
    EXPECT_TRUE(valid(receive, answer(100, 100)));
    EXPECT_FALSE(valid(receive, answer(101, 101))) << "the time-out is not the length";
}

TEST(RpcAnswer, counts_of_written_bytes_are_bounded_by_the_request) {
    for (const u32 op : {FLEX_RPC_WRITE, FLEX_RPC_SEND}) {
        EXPECT_TRUE(valid(request(op, 3, 0, 0, 50), answer(50)));
        EXPECT_FALSE(valid(request(op, 3, 0, 0, 50), answer(51)));
    }
}

TEST(RpcAnswer, ranges_fit_the_request_and_the_data) {
    const RpcRequest alloc = request(FLEX_RPC_ALLOC, 16 << 20);
    EXPECT_TRUE(valid(alloc, answer(8, 64)));
    EXPECT_TRUE(valid(alloc, answer(4096, 32768)));
    EXPECT_FALSE(valid(alloc, answer(0, 0)));
    EXPECT_FALSE(valid(alloc, answer(8, 56)));
    EXPECT_FALSE(valid(alloc, answer(4097, 32776)));
    EXPECT_FALSE(valid(request(FLEX_RPC_ALLOC, 4096), answer(2, 16)));
    EXPECT_FALSE(valid(alloc, answer(i64{1} << 61, 0))) << "times eight it is zero";
    const RpcRequest load = request(FLEX_RPC_LOAD, 5, 0, 8192);
    EXPECT_TRUE(valid(load, answer(2, 16, 8192)));
    EXPECT_FALSE(valid(load, answer(2, 16, 8193))) << "more bytes of the file than were asked for";
}

TEST(RpcAnswer, handles_sizes_and_peers_stay_in_their_bounds) {
    EXPECT_TRUE(valid(request(FLEX_RPC_OPEN), answer(65535, 0, 1 << 20)));
    EXPECT_FALSE(valid(request(FLEX_RPC_OPEN), answer(65536)));
    EXPECT_FALSE(valid(request(FLEX_RPC_OPEN), answer(1, 0, ~u64{0})));
    EXPECT_FALSE(valid(request(FLEX_RPC_LISTEN), answer(65536)));
    EXPECT_FALSE(valid(request(FLEX_RPC_ACCEPT), answer(1, 0, u64{1} << 48)));
    EXPECT_FALSE(valid(request(FLEX_RPC_SIZE), answer(INT64_MAX)));
}

TEST(RpcAnswer, poll_returns_the_items_it_was_given) {
    const RpcRequest poll = request(FLEX_RPC_POLL, 3);
    EXPECT_TRUE(valid(poll, answer(2, 24)));
    EXPECT_FALSE(valid(poll, answer(4, 24)));
    EXPECT_FALSE(valid(poll, answer(2, 16)));
}

TEST(RpcAnswer, an_unknown_operation_has_no_good_answer) {
    EXPECT_FALSE(valid(request(0), answer(0)));
    EXPECT_FALSE(valid(request(99), answer(0)));
}

TEST(RpcSlots, completes_only_what_the_driver_was_told_of) {
    RpcSlots slots;
    slots.clear();
    u32 refused = 0;
    EXPECT_EQ(slots.complete(~u32{0}, refused), 0u);
    EXPECT_EQ(refused, 32u);
    const u32 slot = slots.acquire(5, false);
    slots.post(slot, request(FLEX_RPC_TIME));
    refused = 0;
    EXPECT_EQ(slots.complete(1u << slot, refused), 0u) << "posted, but not reported yet";
    EXPECT_EQ(slots.report(), 1u << slot);
    EXPECT_EQ(slots.report(), 0u) << "told once";
    refused = 0;
    EXPECT_EQ(slots.complete(1u << slot | 1u << 31, refused), 1u << slot);
    EXPECT_EQ(refused, 1u);
    EXPECT_EQ(slots.complete(1u << slot, refused), 0u) << "a second completion of the same request";
    EXPECT_EQ(slots.owner(slot), 5u);
}

TEST(RpcSlots, keeps_some_for_memory) {
    RpcSlots slots;
    slots.clear();
    u32 taken = 0;
    while (slots.acquire(1, false) != RpcSlots::kNone) taken++;
    EXPECT_EQ(taken, FLEX_RPC_SLOTS - RpcSlots::kReserved);
    while (slots.acquire(1, true) != RpcSlots::kNone) taken++;
    EXPECT_EQ(taken, u32{FLEX_RPC_SLOTS});
}

TEST(Names, only_plain_ones_of_the_two_roots_exist) {
    const auto path = [](const std::string& text) { return parse_path(span(text)); };
    ASSERT_TRUE(path("/store/a.flex").ok());
    EXPECT_EQ(path("/store/a.flex").value.root, FLEX_ROOT_STORE);
    EXPECT_EQ(path("/data/x").value.root, FLEX_ROOT_DATA);
    EXPECT_TRUE(path("/data").value.folder);
    EXPECT_TRUE(path("/store/").value.folder);
    for (const char* bad : {"", "/", "data/x", "/datax", "/data/..", "/data/../store/a", "/data/.hidden",
                            "/data/a/b", "/data//x", "/etc/passwd", "/proc/self/maps"}) {
        EXPECT_FALSE(path(bad).ok()) << bad;
    }
    EXPECT_TRUE(path("/data/" + std::string(255, 'x')).ok());
    EXPECT_FALSE(path("/data/" + std::string(256, 'x')).ok());
    EXPECT_FALSE(path(std::string("/data/a\0b", 9)).ok());
}

TEST(Files, the_lowest_descriptor_is_given_and_none_beyond_the_table) {
    auto files = std::make_unique<Files>();
    files->reset();
    OpenFile file;
    file.kind = OpenFile::Kind::File;
    EXPECT_EQ(files->add(file), 3);
    EXPECT_EQ(files->add(file), 4);
    files->close(3);
    EXPECT_EQ(files->get(3), nullptr);
    EXPECT_EQ(files->add(file), 3);
    i64 last = 0;
    for (u32 i = 0; i < Files::kMax; i++) last = files->add(file);
    EXPECT_EQ(last, kEmfile);
    EXPECT_EQ(files->get(Files::kMax), nullptr);
    EXPECT_EQ(files->get(~u64{0}), nullptr);
}

class AheadTest : public testing::Test {
protected:
    AheadTest() { files.reset(); }
    OpenFile& stream() {
        OpenFile file;
        file.kind = OpenFile::Kind::Stream;
        return *files.get(static_cast<u64>(files.add(file)));
    }
    void bring(OpenFile& to, const std::string& bytes) {
        ASSERT_EQ(files.begin_ahead(to), Files::kAheadBytes);
        files.end_ahead(to, {reinterpret_cast<const u8*>(bytes.data()), bytes.size()});
    }
    std::string held(const OpenFile& by) {
        const Span<const u8> span = files.ahead(by);
        return {reinterpret_cast<const char*>(span.data), span.size};
    }
    std::unique_ptr<Files> memory = std::make_unique<Files>();
    Files& files = *memory;
};

TEST_F(AheadTest, what_a_stream_brought_beyond_the_need_comes_first_and_in_order) {
    OpenFile& a = stream();
    OpenFile& b = stream();
    EXPECT_EQ(held(a), "");
    bring(a, "one two");
    bring(b, "three");
    EXPECT_EQ(files.begin_ahead(a), 0u) << "nothing more is asked for while some is there";
    files.take_ahead(a, 4);
    EXPECT_EQ(held(a), "two");
    files.take_ahead(a, 3);
    EXPECT_EQ(held(a), "");
    EXPECT_EQ(held(b), "three");
    bring(a, std::string(2 * Files::kAheadBytes, 'x'));
    EXPECT_EQ(held(a), std::string(Files::kAheadBytes, 'x')) << "no more than there is room";
}

TEST_F(AheadTest, only_one_call_of_a_stream_asks_for_more_and_one_that_brings_nothing_keeps_nothing) {
    OpenFile& a = stream();
    EXPECT_NE(files.begin_ahead(a), 0u);
    EXPECT_EQ(files.begin_ahead(a), 0u);
    files.end_ahead(a, {});
    EXPECT_NE(files.begin_ahead(a), 0u);
}

TEST_F(AheadTest, closing_frees_it_and_streams_beyond_the_buffers_do_without) {
    std::vector<OpenFile*> all;
    for (OpenFile* one = &stream(); files.begin_ahead(*one) != 0; one = &stream()) all.push_back(one);
    ASSERT_FALSE(all.empty());
    ASSERT_LT(all.size(), Files::kMax);
    OpenFile& last = stream();
    EXPECT_EQ(files.begin_ahead(last), 0u);
    EXPECT_EQ(held(last), "");
    files.close(3); // the first of all
    EXPECT_NE(files.begin_ahead(last), 0u);
    EXPECT_EQ(held(stream()), "") << "the descriptor's next stream finds nothing of the one before";
}

TEST(Futex, wakes_in_order_by_address_and_bits) {
    FutexQueue<8> queue;
    queue.wait(1, 0x1000, ~u32{0});
    queue.wait(2, 0x2000, ~u32{0});
    queue.wait(3, 0x1000, 2);
    queue.wait(4, 0x1000, ~u32{0});
    std::vector<u32> woken;
    const auto note = [&](u32 thread) { woken.push_back(thread); };
    EXPECT_EQ(queue.wake(0x1000, 1, 5, note), 2u);
    EXPECT_EQ(woken, (std::vector<u32>{1, 4})) << "3 waits for another bit, 2 at another address";
    EXPECT_EQ(queue.requeue(0x2000, 0x1000, 9), 1u);
    queue.remove(3);
    woken.clear();
    EXPECT_EQ(queue.wake(0x1000, ~u32{0}, 1, note), 1u);
    EXPECT_EQ(woken, (std::vector<u32>{2}));
    EXPECT_EQ(queue.wake(0x1000, ~u32{0}, 1, note), 0u);
}
