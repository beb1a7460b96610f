#include "linux/agent/pressure.h"

#include <gtest/gtest.h>

namespace flex::agent {
namespace {

using namespace std::chrono_literals;

TEST(ReclaimSteps, ask_for_more_while_the_pressure_lasts_and_begin_anew_after_it) {
    ReclaimSteps steps;
    ReclaimSteps::Time now{1h};
    EXPECT_EQ(steps.next(now), ReclaimSteps::kFirst);
    EXPECT_EQ(steps.next(now += 1s), 2 * ReclaimSteps::kFirst);
    EXPECT_EQ(steps.next(now += ReclaimSteps::kLasts), 4 * ReclaimSteps::kFirst);
    for (int i = 0; i < 10; i++) EXPECT_LE(steps.next(now += 1s), ReclaimSteps::kMost);
    EXPECT_EQ(steps.next(now += 1s), ReclaimSteps::kMost);
    EXPECT_EQ(steps.next(now += ReclaimSteps::kLasts + 1ms), ReclaimSteps::kFirst);
}

} // namespace
} // namespace flex::agent
