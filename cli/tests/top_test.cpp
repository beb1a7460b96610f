// What flexserve top makes of the figures.
#include <gtest/gtest.h>

#include "cli/client.h"
#include "cli/client_top_view.h"

namespace flex::cli {
namespace {

constexpr const char* kPage = R"(# HELP flexserve_frames Frames.
# TYPE flexserve_frames gauge
flexserve_frames{state="normal"} 3072
flexserve_frames{state="adopted"} 1024
flexserve_protected 1
flexserve_model_stages{model="big"} 10
flexserve_model_resident_stages{model="big"} 5
flexserve_model_in_use{model="big"} 1
flexserve_sessions{model="big",state="idle"} 3
flexserve_odd{text="a \"quoted\" \\ one",n="2"} 1.5e3
nonsense
flexserve_cut{model="x
)";

TEST(Metrics, are_read_with_their_labels_and_what_is_torn_is_left_out) {
    const Metrics metrics = Metrics::parse(kPage);
    EXPECT_EQ(metrics.samples().size(), 8u);
    EXPECT_EQ(metrics.value("flexserve_frames", {{"state", "adopted"}}), 1024);
    EXPECT_EQ(metrics.value("flexserve_odd", {{"text", "a \"quoted\" \\ one"}}), 1500);
    EXPECT_EQ(metrics.value("flexserve_odd", {{"text", "another"}}), 0);
    EXPECT_EQ(metrics.values_of("flexserve_frames", "state"), (std::vector<std::string>{"normal", "adopted"}));
}

TEST(Top, shows_how_much_of_a_model_is_in_memory) {
    EXPECT_EQ(bar(5, 10, 10), "[#####.....]");
    EXPECT_EQ(bar(20, 10, 4), "[####]");
    EXPECT_EQ(bar(1, 0, 4), "[....]");
    TopSnapshot snapshot{Metrics::parse(kPage), true, parse_stats("monitor/aborts_read:7\nnpu/state:normal\n")};
    const std::string page = render_top(snapshot, 80);
    EXPECT_NE(page.find("big                [##########..........]   5/10"), std::string::npos) << page;
    EXPECT_NE(page.find("in use"), std::string::npos);
    EXPECT_NE(page.find("4.0 of 16 MiB protected"), std::string::npos) << page;
    EXPECT_NE(page.find("reads 7, writes -"), std::string::npos) << page;
    EXPECT_NE(page.find("npu      normal"), std::string::npos);
    for (std::size_t begin = 0; begin < page.size(); begin = page.find('\n', begin) + 1)
        EXPECT_LE(page.find('\n', begin) - begin, 80u);
}

TEST(Top, shows_what_is_stored_where_something_may_be) {
    EXPECT_EQ(render_top({Metrics::parse(kPage), true, {}}, 120).find("stored"), std::string::npos);
    const std::string stored = R"(flexserve_stored_sessions 3
flexserve_stored_kv_bytes 3145728
flexserve_kv_blocks_restored_total 12
flexserve_kv_blocks_recomputed_total{cause="lost"} 0
flexserve_kv_blocks_recomputed_total{cause="refused"} 2
)";
    const std::string page = render_top({Metrics::parse(kPage + ("\n" + stored)), true, {}}, 120);
    EXPECT_NE(page.find("stored   3 conversations, 3.0 MiB; blocks: 0 written, 12 read, 2 refused, 0 lost"),
              std::string::npos)
        << page;
}

TEST(Printable, text_of_a_model_cannot_command_the_terminal) {
    EXPECT_EQ(printable("a\x1b[2Jb\r\x7f\tc\n"), "a?[2Jb??\tc\n");
    EXPECT_EQ(printable("\xc2\x9b"
                        "31m \xc3\xa4"),
              "?31m \xc3\xa4");
}

} // namespace
} // namespace flex::cli
