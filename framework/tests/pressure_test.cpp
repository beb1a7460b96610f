// When what was given away may come back.
#include "memory/pressure.h"

#include <gtest/gtest.h>

namespace flex::memory {
namespace {

TEST(Pressure, is_calm_until_asked_and_again_after_a_while) {
    Pressure pressure;
    EXPECT_TRUE(pressure.calm(0));
    pressure.asked(100);
    EXPECT_FALSE(pressure.calm(100));
    EXPECT_FALSE(pressure.calm(104.9));
    EXPECT_TRUE(pressure.calm(105));
}

TEST(Pressure, waits_twice_as_long_each_time_bringing_back_made_it_worse) {
    Pressure pressure;
    double now = 0;
    for (const double patience : {5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 320.0}) {
        pressure.asked(now);
        EXPECT_EQ(pressure.patience(), patience);
        EXPECT_FALSE(pressure.calm(now + patience - 1));
        now += patience;
        EXPECT_TRUE(pressure.calm(now));
        pressure.refilled(now);
        now += 1;
    }
    pressure.asked(now + 1000); // long after the last refill: another cause
    EXPECT_EQ(pressure.patience(), 5);
}

TEST(Pressure, many_asks_at_once_are_one_shortage) {
    Pressure pressure;
    pressure.refilled(0);
    for (int i = 0; i < 100; ++i) pressure.asked(1 + 0.01 * i);
    EXPECT_LE(pressure.patience(), 10);
    EXPECT_TRUE(pressure.calm(12));
}

} // namespace
} // namespace flex::memory
