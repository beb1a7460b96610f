// What goes over the network, and whom the device's certificate convinces.
#include <algorithm>

#include "shared.h"
#include "support/native_server.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;

class NetworkTest : public SystemTest {
protected:
    [[nodiscard]] static std::string url(const std::string& path) {
        return "https://localhost:" + std::to_string(target().api().port()) + path;
    }
    [[nodiscard]] static std::string ca_file() { return shared_device().device().folder() / "device-ca.pem"; }
};

TEST_F(NetworkTest, curl_trusts_the_device_by_its_certificate) {
    const RunResult result = run_program({"curl", "-sS", "--cacert", ca_file(), url("/v1/models")});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_NE(result.out.find("\"demo\""), std::string::npos) << result.out;
}

TEST_F(NetworkTest, curl_refuses_the_device_by_another_certificate) {
    const NativeServer other(fs::path(FLEX_TEST_HOME) / "other", "demo", target().model_file());
    const RunResult result = run_program({"curl", "-sS", "--cacert", other.api().ca_file().string(), url("/v1/models")});
    EXPECT_EQ(result.code, 60) << result.out << result.err; // curl: peer certificate cannot be authenticated
    EXPECT_EQ(result.out, "");
    const RunResult unpinned = run_program({"curl", "-sS", url("/v1/models")});
    EXPECT_EQ(unpinned.code, 60) << "no public authority vouches for a device";
}

TEST_F(NetworkTest, an_impostor_learns_nothing_from_a_client_that_pins_the_device) {
    const NativeServer impostor(fs::path(FLEX_TEST_HOME) / "impostor", "demo", target().model_file());
    const attack::ApiClient client(ca_file(), impostor.api().port());
    const attack::Completion answer = client.complete(target().reference_query());
    EXPECT_FALSE(answer.ok);
    EXPECT_EQ(answer.status, 0);
    EXPECT_NE(answer.error.find("SSL"), std::string::npos) << answer.error;
}

TEST_F(NetworkTest, prompt_and_answer_do_not_show_on_the_wire) {
    attack::Query query = target().reference_query();
    query.prompt = "The password is xylophone-marmalade-1729. What is FlexServe?";
    query.max_tokens = 32;
    const attack::Completion answer = target().api().complete(query);
    ASSERT_TRUE(answer.ok) << answer.error;
    ASSERT_GE(answer.text.size(), 16u);
    // Something that does cross the wire in the clear must be found, or the capture would prove nothing.
    target().exec("echo control-of-the-wire-capture");
    std::string wire = read_all(shared_device().device().folder() / "net.pcap");
    EXPECT_NE(wire.find("control-of-the-wire-capture"), std::string::npos);
    EXPECT_EQ(wire.find("xylophone-marmalade"), std::string::npos);
    EXPECT_EQ(wire.find(answer.text.substr(0, 32)), std::string::npos);
    EXPECT_EQ(wire.find("/v1/chat/completions"), std::string::npos) << "not even the address";
}

} // namespace
} // namespace flex::test
