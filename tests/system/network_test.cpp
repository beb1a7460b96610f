// What goes over the network, and whom the device's certificate convinces.
#include <algorithm>
#include <memory>

#include <openssl/bio.h>
#include <openssl/ssl.h>

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

/// TLS without an HTTP library, which would send a request its own way.
class RawClient {
public:
    RawClient(const std::string& ca_file, int port) {
        SSL_CTX_load_verify_locations(context_.get(), ca_file.c_str(), nullptr);
        SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
        SSL_CTX_set_mode(context_.get(), SSL_MODE_AUTO_RETRY);
        bio_.reset(BIO_new_ssl_connect(context_.get()));
        BIO_set_conn_hostname(bio_.get(), ("localhost:" + std::to_string(port)).c_str());
        connected_ = BIO_do_connect(bio_.get()) == 1;
    }
    [[nodiscard]] bool connected() const { return connected_; }
    bool send(const std::string& text) { return BIO_write(bio_.get(), text.data(), static_cast<int>(text.size())) > 0; }
    /// An answer in JSON, or what came until the connection ended.
    std::string receive() {
        std::string all;
        for (char some[4096]; !all.ends_with("}");) {
            const int got = BIO_read(bio_.get(), some, sizeof some);
            if (got <= 0) break;
            all.append(some, static_cast<std::size_t>(got));
        }
        return all;
    }

private:
    struct Free {
        void operator()(BIO* bio) const { BIO_free_all(bio); }
        void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    };
    std::unique_ptr<SSL_CTX, Free> context_{SSL_CTX_new(TLS_client_method())};
    std::unique_ptr<BIO, Free> bio_;
    bool connected_ = false;
};

/// The trusted OS reads ahead: what it has must be found before what Linux still has, and only by its own stream.
TEST_F(NetworkTest, requests_that_come_in_records_of_any_size_are_answered) {
    RawClient one(ca_file(), target().api().port()), other(ca_file(), target().api().port());
    ASSERT_TRUE(one.connected() && other.connected());
    const std::string get = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Longer than what is read ahead, in TLS records that begin and end anywhere.
    const std::string body = R"({"model":"demo","max_tokens":1,"prompt":"What is FlexServe?")" + std::string(40'000, ' ') + "}";
    const std::string post = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
                             std::to_string(body.size()) + "\r\n\r\n" + body;
    for (int i = 0; i < 3; ++i) {
        auto next = get.begin(); // of the other one's request, a byte a record
        std::size_t part = 1;
        for (std::size_t at = 0; at < post.size(); at += part, part = part % 5003 + 977) {
            ASSERT_TRUE(one.send(post.substr(at, part)));
            if (next != get.end()) { ASSERT_TRUE(other.send(std::string(1, *next++))); }
        }
        for (; next != get.end(); ++next) ASSERT_TRUE(other.send(std::string(1, *next)));
        const std::string answer = one.receive(), models = other.receive();
        EXPECT_NE(answer.find("HTTP/1.1 200"), std::string::npos) << answer;
        EXPECT_NE(models.find("HTTP/1.1 200"), std::string::npos) << models;
    }
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
