// Every order of the steps of two or three actors, on a few frames. In the builds without a defence the same
// configurations must turn something up: see CMakeLists.txt.
#include "world.hpp"

#include <gtest/gtest.h>

namespace flex::explore {
namespace {

#ifdef FLEX_WITHOUT_STAGE2_UNMAP
#define FLEX_EXPLORE_UNMAP 1
#elif defined(FLEX_WITHOUT_STATE_CHECK)
#define FLEX_EXPLORE_STATES 1
#elif defined(FLEX_WITHOUT_COPY_ONCE)
#define FLEX_EXPLORE_COPY 1
#else
#define FLEX_EXPLORE_COMPLETE 1
#endif

struct Result {
    bool found = false;
    Finding finding;
};

Result explore(World& world, std::vector<Explorer::Actor> actors) {
    Explorer explorer(world, std::move(actors));
    world.set_explorer(&explorer);
    Result result;
    result.found = explorer.find(result.finding);
    std::printf("             %lu orders, %lu states, %lu steps\n", explorer.runs(), explorer.states(),
                explorer.steps());
    if (result.found)
        std::printf("             %s, after %s\n", result.finding.what.c_str(),
                    result.finding.schedule.c_str());
    return result;
}

#ifdef FLEX_EXPLORE_COMPLETE
void judge(const Result& result) {
    EXPECT_FALSE(result.found) << result.finding.what << " after " << result.finding.schedule;
}
#else
void judge(const Result& result) {
    EXPECT_TRUE(result.found) << "the exploration does not notice that a defence is gone";
}
#endif

class Explore : public ::testing::TestWithParam<bool> {
protected:
    World world{GetParam()};
};

#if defined(FLEX_EXPLORE_COMPLETE) || defined(FLEX_EXPLORE_UNMAP) || defined(FLEX_EXPLORE_STATES)
// The life of frames: protected in one list while the trusted OS tries to adopt, use, release and pin the
// same ones.
TEST_P(Explore, protect_against_adopt_and_release) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(1), one(2)});
                                               world.recall({one(1)});
                                               world.recall({one(2)});
                                           },
                                           [&] {
                                               world.use_and_release({one(2)});
                                               world.use_and_release({one(1), one(2)});
                                           },
                                       });
    judge(result);
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE) || defined(FLEX_EXPLORE_STATES)
// A shared buffer must not be protected and adopted while it is in use.
TEST_P(Explore, protect_against_pinning) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(1), one(2), one(3)});
                                               world.protect({one(2)});
                                           },
                                           [&] {
                                               world.pin_and_unpin(2);
                                               world.use_and_release({one(2)});
                                           },
                                       });
    judge(result);
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE)
// Two cores in the monitor with overlapping lists, and the trusted OS.
TEST_P(Explore, two_cores_and_the_trusted_os) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(1), one(2)});
                                               world.recall({one(2)});
                                           },
                                           [&] {
                                               world.protect({one(3), one(2)});
                                           },
                                           [&] { world.use_and_release({one(2)}); },
                                       });
    judge(result);
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE)
// Ranges of eight frames change state eight cells at a time.
TEST_P(Explore, ranges_of_many_frames) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(0, 3)});
                                               world.recall({one(0, 3)});
                                           },
                                           [&] {
                                               world.use_and_release({one(4, 2), one(0, 2)});
                                           },
                                           [&] { world.pin_and_unpin(5); },
                                       });
    judge(result);
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE)
// A range of two times eight cells of which the second cannot be had: the first are taken back.
TEST_P(Explore, a_range_of_many_frames_that_fails_half_way) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(0, 4)});
                                               world.recall({one(0, 4)});
                                           },
                                           [&] { world.pin_and_unpin(13); },
                                           [&] {
                                               world.use_and_release({one(8, 3), one(0, 3)});
                                           },
                                       });
    judge(result);
}

// What these explorations are worth: swaps of eight cells that look at fewer are found out.
TEST_P(Explore, a_swap_of_eight_cells_that_looks_at_fewer_is_found) {
    for (const unsigned compared : {1u, 4u, 7u}) {
        world.cells_compared = compared;
        const auto result = explore(world, {
                                               [&] { world.protect({one(0, 3)}); },
                                               [&] { world.pin_and_unpin(7); },
                                           });
        EXPECT_TRUE(result.found) << "looking at " << compared << " of eight cells goes unnoticed";
    }
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE)
// A range that changes state cell by cell is taken back when one of its frames is not to be had.
TEST_P(Explore, a_range_that_fails_half_way) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(4, 2)});
                                               world.recall({one(4, 2)});
                                           },
                                           [&] { world.pin_and_unpin(6); },
                                           [&] {
                                               world.use_and_release({one(4, 1), one(6)});
                                           },
                                       });
    judge(result);
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE) || defined(FLEX_EXPLORE_STATES)
// A recall that names one frame which is still adopted takes none.
TEST_P(Explore, recall_of_a_frame_that_is_kept) {
    const auto result = explore(world, {
                                           [&] {
                                               world.protect({one(1), one(2), one(3)});
                                               world.recall({one(1), one(2)});
                                           },
                                           [&] {
                                               world.adopt_and_keep({one(2)});
                                               world.use_and_release({one(1)});
                                           },
                                       });
    judge(result);
}
#endif

#if defined(FLEX_EXPLORE_COMPLETE) || defined(FLEX_EXPLORE_COPY)
// Another core rewrites the list while the monitor works on it.
TEST_P(Explore, a_list_that_changes_while_it_is_used) {
    world.initial_list = {one(1), one(2)};
    const auto result = explore(world, {
                                           [&] { world.protect_list(2); },
                                           [&] {
                                               world.write_list(0, one(2));
                                               world.write_list(1, one(3));
                                           },
                                           [&] { world.use_and_release({one(2)}); },
                                       });
    judge(result);
}
#endif

#define FLEX_INSTANTIATE(build)                                                                              \
    INSTANTIATE_TEST_SUITE_P(build, Explore, ::testing::Values(true, false), [](const auto& info) {          \
        return info.param ? "replaces_directly" : "breaks_before_it_makes";                                  \
    })

#ifdef FLEX_EXPLORE_UNMAP
FLEX_INSTANTIATE(WithoutStage2Unmap);
#elif defined(FLEX_EXPLORE_STATES)
FLEX_INSTANTIATE(WithoutStateCheck);
#elif defined(FLEX_EXPLORE_COPY)
FLEX_INSTANTIATE(WithoutCopyOnce);
#else
FLEX_INSTANTIATE(Complete);
#endif

} // namespace
} // namespace flex::explore
