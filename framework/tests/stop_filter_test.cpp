#include <gtest/gtest.h>

#include "api/generation.h"

namespace flex::api {
namespace {

/// Feeds `text` in pieces of every size and expects the same outcome each time.
void expect_shown(const std::vector<std::string>& stops, const std::string& text, const std::string& shown,
                  bool found) {
    for (std::size_t piece = 1; piece <= text.size(); ++piece) {
        StopFilter filter(stops);
        std::string got;
        for (std::size_t at = 0; at < text.size(); at += piece) got += filter.push(text.substr(at, piece));
        got += filter.finish();
        EXPECT_EQ(got, shown) << "pieces of " << piece;
        EXPECT_EQ(filter.found(), found) << "pieces of " << piece;
    }
}

TEST(StopFilter, text_without_a_stop_string_passes_unchanged) {
    expect_shown({}, "one two three", "one two three", false);
    expect_shown({"###"}, "one ## two # three ##", "one ## two # three ##", false);
}

TEST(StopFilter, the_stop_string_and_what_follows_are_never_shown) {
    expect_shown({"###"}, "one ### two", "one ", true);
    expect_shown({"\n\n"}, "line\n\nmore", "line", true);
    expect_shown({"aab"}, "aaab", "a", true);
}

TEST(StopFilter, the_earliest_of_several_ends_the_text) {
    expect_shown({"two", "one"}, "zero one two", "zero ", true);
}

TEST(StopFilter, nothing_is_held_back_that_cannot_become_a_stop_string) {
    StopFilter filter({"END"});
    EXPECT_EQ(filter.push("abcE"), "abc");
    EXPECT_EQ(filter.push("x"), "Ex");
    EXPECT_EQ(filter.push("EN"), "");
    EXPECT_EQ(filter.finish(), "EN");
}

} // namespace
} // namespace flex::api
