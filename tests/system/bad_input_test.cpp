// Bad input: one line that says what is wrong, a non-zero exit code, and a device that goes on as before.
#include <sys/mount.h>
#include <unistd.h>

#include <cstring>

#include <nlohmann/json.hpp>

#include "shared.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class BadInputTest : public SystemTest {
protected:
    void SetUp() override {
        SystemTest::SetUp();
        fs::create_directories(scratch);
    }
    void TearDown() override { expect_unharmed(); }

    [[nodiscard]] fs::path store() const { return shared_device().device().folder() / "store"; }
    /// A package of the demo model under this name.
    [[nodiscard]] fs::path sealed(const std::string& name) const {
        target().seal_as(name);
        return store() / (name + ".flex");
    }
    [[nodiscard]] RunResult run(const std::string& model) const { return flexserve({"run", model, "hello", "--temp", "0", "-n", "4"}); }
    /// The demo model with its first `from` replaced by `to` of the same length.
    [[nodiscard]] fs::path changed_model(const std::string& name, const std::string& from, const std::string& to) const {
        std::string content = read_all(target().model_file());
        const std::size_t at = content.find(from);
        EXPECT_NE(at, std::string::npos);
        EXPECT_EQ(from.size(), to.size());
        if (at != std::string::npos) content.replace(at, from.size(), to);
        write_all(scratch / name, content);
        return scratch / name;
    }

    fs::path scratch = fs::path(FLEX_TEST_HOME) / "scratch";
};

TEST_F(BadInputTest, a_missing_model_is_named) {
    expect_one_line_error(run("nosuch"), "nosuch");
    expect_one_line_error(flexserve({"seal", (scratch / "nosuch.gguf").string(), "-o", "nosuch.flex"}), "nosuch.gguf");
    const attack::Completion answer = target().api().complete(target().reference_query("nosuch"));
    EXPECT_EQ(answer.status, 404);
    EXPECT_NE(answer.error.find("nosuch"), std::string::npos) << answer.error;
}

TEST_F(BadInputTest, a_truncated_package_is_refused) {
    const fs::path file = sealed("truncated");
    fs::resize_file(file, fs::file_size(file) / 2);
    expect_one_line_error(run("truncated"), "truncated");
    fs::remove(file);
}

TEST_F(BadInputTest, an_edited_package_is_refused) {
    const fs::path file = sealed("edited");
    std::string content = read_all(file);
    content[content.size() / 2] ^= 1;
    write_all(file, content);
    expect_one_line_error(run("edited"), "edited");
    fs::remove(file);
}

TEST_F(BadInputTest, an_empty_package_and_a_text_are_refused) {
    write_all(store() / "empty.flex", "");
    expect_one_line_error(run("empty"), "empty");
    write_all(store() / "text.flex", std::string(10000, 'a'));
    expect_one_line_error(run("text"), "not a FlexServe package");
    fs::remove(store() / "empty.flex");
    fs::remove(store() / "text.flex");
}

TEST_F(BadInputTest, a_package_for_another_device_is_refused) {
    attack::seal_for(shared_device().device(),
                     {.gguf = target().model_file(), .name = "foreign", .version = 0, .file = {}, .for_another_device = true});
    expect_one_line_error(run("foreign"), "another device");
    fs::remove(store() / "foreign.flex");
}

TEST_F(BadInputTest, absurd_counts_in_a_gguf_are_refused) {
    std::string content = read_all(target().model_file());
    // GGUF header: magic, version, then u64 tensor count at 8 and u64 key count at 16.
    for (const std::size_t at : {8u, 16u}) {
        std::string absurd = content;
        absurd.replace(at, 8, std::string(7, '\xff') + '\x7f');
        write_all(scratch / "absurd.gguf", absurd);
        expect_one_line_error(flexserve({"seal", (scratch / "absurd.gguf").string(), "-o", "absurd.flex"}), "absurd.gguf");
        expect_one_line_error(flexserve({"generate", (scratch / "absurd.gguf").string(), "--ids", "1,2", "-n", "2"}), "absurd.gguf");
    }
    EXPECT_FALSE(fs::exists(store() / "absurd.flex"));
}

TEST_F(BadInputTest, a_truncated_gguf_is_refused) {
    const std::string content = read_all(target().model_file());
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{3}, std::size_t{24}, std::size_t{5000}, content.size() - 1}) {
        write_all(scratch / "short.gguf", content.substr(0, bytes));
        expect_one_line_error(flexserve({"seal", (scratch / "short.gguf").string(), "-o", "short.flex"}), "short.gguf");
    }
}

TEST_F(BadInputTest, an_unknown_architecture_is_refused) {
    // The value of general.architecture follows its key: u32 type (8, string), u64 length.
    const std::string key = std::string("general.architecture") + std::string("\x08\0\0\0", 4) + std::string("\x05\0\0\0\0\0\0\0", 8);
    const fs::path file = changed_model("mamba.gguf", key + "qwen3", key + "mamba");
    expect_one_line_error(flexserve({"seal", file.string(), "-o", "mamba.flex"}), "mamba");
}

TEST_F(BadInputTest, a_prompt_longer_than_the_context_is_refused) {
    std::string prompt;
    for (int i = 0; i < 20000; ++i) prompt += "memory ";
    attack::Query query = target().reference_query();
    query.prompt = prompt;
    const attack::Completion answer = target().api().complete(query);
    EXPECT_EQ(answer.status, 400);
    EXPECT_NE(answer.error.find("context"), std::string::npos) << answer.error;
    expect_one_line_error(flexserve({"run", "demo", prompt.substr(0, 100000)}), "context");
}

TEST_F(BadInputTest, bad_arguments_are_refused) {
    EXPECT_NE(flexserve({}).code, 0);
    EXPECT_NE(flexserve({"frobnicate"}).code, 0);
    EXPECT_NE(flexserve({"device", "up", "--cores", "9"}).code, 0);
    expect_one_line_error(flexserve({"device", "--name", "other", "up", "--memory", "12"}), "1G to 16G");
    expect_one_line_error(flexserve({"attack", "--only", "nosuch"}), "nosuch");
}

TEST_F(BadInputTest, a_missing_qemu_is_told_and_what_to_do) {
    const RunResult result = flexserve({"device", "--name", "other", "up"}, {"PATH=" + scratch.string()});
    EXPECT_NE(result.code, 0);
    EXPECT_NE(result.err.find("qemu-system-aarch64 is not installed"), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("doctor"), std::string::npos) << result.err;
}

TEST_F(BadInputTest, a_full_disk_leaves_the_package_that_was_there) {
    const fs::path small = scratch / "small";
    fs::create_directories(small);
    if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=256k") != 0) GTEST_SKIP() << "only root can make a small disk: " << std::strerror(errno);
    write_all(small / "full.flex", "what was there");
    const RunResult result = flexserve({"seal", target().model_file().string(), "-o", (small / "full.flex").string()});
    EXPECT_EQ(read_all(small / "full.flex"), "what was there");
    EXPECT_FALSE(fs::exists(small / "full.flex.part"));
    ::umount(small.c_str());
    expect_one_line_error(result, "full");
}

} // namespace
} // namespace flex::test
