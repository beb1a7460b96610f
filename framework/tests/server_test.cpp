// The server as its clients meet it: real sockets, real TLS, the demo model.
#include "api/server.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/caller.h"
#include "api/operator.h"
#include "fakes.h"
#include "package/chat_compiler.h"
#include "package/seal.h"
#include "port/identity.h"
#include "temporary_folder.h"

namespace flex::api {
namespace {

using Json = nlohmann::json;
using namespace std::chrono_literals;

/// One server for all tests of this file: each test is a client that must not disturb the next.
class ServerTest : public testing::Test {
protected:
    struct World {
        test::TemporaryFolder folder, home;
        std::unique_ptr<port::Port> port;
        std::unique_ptr<Server> server;
        std::thread thread;

        World() {
            crypto::initialise();
            port = port::make_native_port(folder.path()).value();
            EXPECT_TRUE(port::provision_native(folder.path(), home.path()).ok());
            seal("demo", 1);
            ServerOptions options;
            options.endpoint = {"127.0.0.1", 0};
            options.models.threads = 2;
            options.models.context = 512;
            options.models.kernels = &test::slow_kernels();
            options.models.stored_kv_bytes = 64u << 20;
            server = Server::create(*port, options).value();
            thread = std::thread([this] { EXPECT_TRUE(server->run().ok()); });
        }
        ~World() {
            server->stop();
            thread.join();
        }
        void seal(const std::string& name, std::uint64_t version) const {
            package::SealOptions options;
            options.source = FLEX_SOURCE_DIR "/models/demo/demo.gguf";
            options.name = name;
            options.target = folder.path() + "/store/" + name + ".flex";
            options.version = version;
            options.device = crypto::x25519_public(port->device_key(port::kPackageKeyLabel).value()).value();
            options.chat_form = package::chat_form_of_file(options.source, "").value().form;
            const auto key = port::publisher_key(home.path()).value();
            ASSERT_TRUE(package::seal(options, key).ok());
        }
    };
    static void SetUpTestSuite() { world_ = std::make_unique<World>(); }
    static void TearDownTestSuite() { world_.reset(); }

    static std::unique_ptr<httplib::SSLClient> client(const char* host = "localhost") {
        auto client = std::make_unique<httplib::SSLClient>(host, world_->server->port());
        client->set_hostname_addr_map({{"localhost", "127.0.0.1"}});
        client->set_ca_cert_path(world_->folder.path() + "/device-ca.pem");
        client->set_read_timeout(60s);
        return client;
    }
    static httplib::Result post(const char* path, const std::string& body) {
        return client()->Post(path, body, "application/json");
    }
    /// The answer to a request that must succeed.
    static Json ask(const char* path, const Json& body) {
        const auto got = post(path, body.dump());
        EXPECT_TRUE(got) << httplib::to_string(got.error());
        if (!got) return {};
        EXPECT_EQ(got->status, 200) << got->body;
        return Json::parse(got->body);
    }
    static Json chat(Json extra = Json::object()) {
        Json body = {{"model", "demo"},
                     {"temperature", 0},
                     {"max_tokens", 16},
                     {"messages", Json::array({{{"role", "user"}, {"content", "What is Flex-Mem?"}}})}};
        body.update(extra);
        return body;
    }
    static std::string operator_token() {
        return port::operator_token([](std::string_view label) { return world_->port->device_key(label); })
            .value();
    }
    static Json status() {
        return Json::parse(client()->Get("/flexserve/status", {{kOperatorHeader, operator_token()}})->body);
    }

    static constexpr int kLongAnswer = 200;
    static Json long_answer();
    static bool leave_early(Json request, bool stream);

    static std::unique_ptr<World> world_;
};
std::unique_ptr<ServerTest::World> ServerTest::world_;

TEST_F(ServerTest, tls_holds_with_the_pinned_ca_for_every_name_of_this_machine) {
    for (const char* host : {"localhost", "127.0.0.1"}) {
        const auto got = client(host)->Get("/health");
        ASSERT_TRUE(got) << host << ": " << httplib::to_string(got.error());
        EXPECT_EQ(got->status, 200);
    }
}

TEST_F(ServerTest, tls_fails_with_the_ca_of_another_device) {
    const test::TemporaryFolder other, home;
    ASSERT_TRUE(port::make_native_port(other.path()).ok());
    ASSERT_TRUE(port::provision_native(other.path(), home.path()).ok());
    auto stranger = client();
    stranger->set_ca_cert_path(other.path() + "/device-ca.pem");
    const auto got = stranger->Get("/health");
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error(), httplib::Error::SSLServerVerification);
}

TEST_F(ServerTest, tls_fails_for_a_name_that_is_not_the_server_s) {
    auto wrong = std::make_unique<httplib::SSLClient>("example.org", world_->server->port());
    wrong->set_hostname_addr_map({{"example.org", "127.0.0.1"}});
    wrong->set_ca_cert_path(world_->folder.path() + "/device-ca.pem");
    const auto got = wrong->Get("/health");
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error(), httplib::Error::SSLServerHostnameVerification);
}

TEST_F(ServerTest, nothing_older_than_tls_1_3_is_spoken) {
    auto old = client();
    SSL_CTX_set_max_proto_version(old->ssl_context(), TLS1_2_VERSION);
    EXPECT_FALSE(old->Get("/health"));
}

TEST_F(ServerTest, plain_http_gets_no_answer) {
    httplib::Client plain("127.0.0.1", world_->server->port());
    EXPECT_FALSE(plain.Get("/health"));
}

TEST_F(ServerTest, the_store_s_models_are_listed) {
    const auto got = client()->Get("/v1/models");
    ASSERT_TRUE(got);
    EXPECT_EQ(Json::parse(got->body)["data"][0]["id"], "demo");
}

TEST_F(ServerTest, log_probabilities_stand_beside_every_token_streamed_or_not) {
    const Json asked = chat({{"logprobs", true}, {"top_logprobs", 2}, {"max_tokens", 6}});
    const Json whole = ask("/v1/chat/completions", asked);
    const Json& content = whole["choices"][0]["logprobs"]["content"];
    ASSERT_EQ(content.size(), whole["usage"]["completion_tokens"]);
    std::string text;
    for (const Json& place : content) {
        EXPECT_EQ(place["top_logprobs"].size(), 2u);
        EXPECT_EQ(place["token"], place["top_logprobs"][0]["token"]); // greedy: the likeliest
        EXPECT_LE(place["logprob"].get<double>(), 0.0);
        text += place["token"].get<std::string>();
    }
    EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
    Json streaming = asked;
    streaming["stream"] = true;
    const auto got = post("/v1/chat/completions", streaming.dump());
    ASSERT_TRUE(got);
    Json streamed = Json::array();
    std::istringstream lines(got->body);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("data: {")) continue;
        const Json event = Json::parse(line.substr(6));
        if (event["choices"].empty() || !event["choices"][0].contains("logprobs")) continue;
        for (const Json& place : event["choices"][0]["logprobs"]["content"]) streamed.push_back(place);
    }
    EXPECT_EQ(streamed, content);
}

TEST_F(ServerTest, a_bias_forbids_a_token_and_one_outside_the_vocabulary_is_refused) {
    const Json first = ask("/v1/chat/completions", chat({{"return_tokens", true}, {"max_tokens", 1}}));
    const TokenId token = first["choices"][0]["tokens"][0];
    const Json biased =
        chat({{"return_tokens", true}, {"max_tokens", 8}, {"logit_bias", {{std::to_string(token), -100}}}});
    for (const Json& other : ask("/v1/chat/completions", biased)["choices"][0]["tokens"])
        EXPECT_NE(other, token);
    const auto refused = post("/v1/chat/completions", chat({{"logit_bias", {{"4000000", 1}}}}).dump());
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status, 400);
    EXPECT_NE(refused->body.find("4000000"), std::string::npos);
}

TEST_F(ServerTest, greedy_answers_are_the_same_streamed_or_not) {
    const Json whole = ask("/v1/chat/completions", chat());
    const std::string text = whole["choices"][0]["message"]["content"];
    EXPECT_FALSE(text.empty());
    const auto got = post("/v1/chat/completions", chat({{"stream", true}}).dump());
    ASSERT_TRUE(got);
    EXPECT_TRUE(got->get_header_value("Content-Type").starts_with("text/event-stream"));
    std::string streamed;
    std::istringstream lines(got->body);
    bool done = false;
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("data: ")) continue;
        if (line == "data: [DONE]")
            done = true;
        else if (const Json event = Json::parse(line.substr(6)); !event["choices"].empty())
            streamed += event["choices"][0]["delta"].value("content", "");
    }
    EXPECT_EQ(streamed, text);
    EXPECT_TRUE(done);
}

TEST_F(ServerTest, a_seed_repeats_an_answer_and_another_seed_does_not) {
    const Json one = ask("/v1/chat/completions", chat({{"temperature", 1.5}, {"seed", 1}}));
    const Json again = ask("/v1/chat/completions", chat({{"temperature", 1.5}, {"seed", 1}}));
    EXPECT_EQ(one["choices"], again["choices"]);
    std::set<std::string> different;
    for (int seed = 0; seed < 8; ++seed) {
        different.insert(
            ask("/v1/chat/completions", chat({{"temperature", 1.5}, {"seed", seed}}))["choices"].dump());
    }
    EXPECT_GT(different.size(), 1u);
}

TEST_F(ServerTest, max_tokens_and_stop_strings_end_an_answer) {
    const Json cut = ask("/v1/chat/completions", chat({{"max_tokens", 3}}));
    EXPECT_EQ(cut["choices"][0]["finish_reason"], "length");
    EXPECT_EQ(cut["usage"]["completion_tokens"], 3);

    const std::string text = ask("/v1/chat/completions", chat())["choices"][0]["message"]["content"];
    const std::string word = text.substr(text.size() / 2, 4);
    const Json stopped = ask("/v1/chat/completions", chat({{"stop", word}}));
    EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
    EXPECT_EQ(stopped["choices"][0]["message"]["content"], text.substr(0, text.find(word)));
}

TEST_F(ServerTest, a_completion_takes_tokens_and_gives_them) {
    const Json answer = ask("/v1/completions", {{"model", "demo"},
                                                {"prompt", {5, 6, 7}},
                                                {"temperature", 0},
                                                {"max_tokens", 4},
                                                {"return_tokens", true}});
    EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
    EXPECT_EQ(answer["choices"][0]["tokens"].size(), answer["usage"]["completion_tokens"]);
}

TEST_F(ServerTest, a_prompt_longer_than_the_context_is_refused_with_both_numbers) {
    Json tokens = Json::array();
    for (int i = 0; i < 600; ++i) tokens.push_back(5);
    const auto got = post("/v1/completions", Json({{"model", "demo"}, {"prompt", tokens}}).dump());
    ASSERT_TRUE(got);
    EXPECT_EQ(got->status, 400);
    const Json error = Json::parse(got->body)["error"];
    EXPECT_EQ(error["code"], "context_length_exceeded");
    EXPECT_NE(error["message"].get<std::string>().find("600"), std::string::npos);
    EXPECT_NE(error["message"].get<std::string>().find("512"), std::string::npos);
}

TEST_F(ServerTest, a_conversation_with_a_key_is_not_computed_again) {
    const Json first = ask("/v1/chat/completions", chat({{"prompt_cache_key", "secret-1"}}));
    EXPECT_EQ(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    const Json second = ask("/v1/chat/completions", chat({{"prompt_cache_key", "secret-1"}}));
    EXPECT_GT(second["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    EXPECT_EQ(first["choices"], second["choices"]);
}

// Otherwise one client could find out another's prompt, word by word.
TEST_F(ServerTest, what_one_client_asked_does_not_show_in_what_another_gets) {
    for (const char* key : {"", "secret-3"}) {
        static_cast<void>(ask("/v1/chat/completions", chat({{"prompt_cache_key", "secret-2"}})));
        const Json other = ask("/v1/chat/completions", chat({{"prompt_cache_key", key}}));
        EXPECT_EQ(other["usage"]["prompt_tokens_details"]["cached_tokens"], 0) << key;
    }
}

struct BadRequest {
    const char* method;
    const char* path;
    const char* body;
    int status;
};

TEST_F(ServerTest, a_bad_request_fails_alone_and_tells_why) {
    const BadRequest requests[] = {
        {"GET", "/", "", 404},
        {"GET", "/v1/chat/completions", "", 404},
        {"GET", "/../../etc/passwd", "", 404},
        {"POST", "/v1/chat/completions", "", 400},
        {"POST", "/v1/chat/completions", "{", 400},
        {"POST", "/v1/chat/completions", R"({"model":"demo","messages":[]})", 400},
        {"POST", "/v1/chat/completions", R"({"model":"nope","messages":[{"role":"user","content":"x"}]})",
         404},
        {"POST", "/v1/chat/completions", R"({"model":"../demo","messages":[{"role":"user","content":"x"}]})",
         404},
        {"POST", "/v1/completions", R"({"model":"demo","prompt":""})", 400},
        {"POST", "/v1/completions", R"({"model":"demo","prompt":[99999999]})", 400},
        {"POST", "/v1/embeddings", R"({"model":"demo","input":"x"})", 404},
        {"DELETE", "/v1/models", "", 404},
    };
    for (const BadRequest& request : requests) {
        httplib::Request raw;
        raw.method = request.method;
        raw.path = request.path;
        raw.body = request.body;
        const auto got = client()->send(raw);
        ASSERT_TRUE(got) << request.path << " " << request.body;
        EXPECT_EQ(got->status, request.status) << request.path << " " << request.body;
        const Json body = Json::parse(got->body, nullptr, false);
        ASSERT_FALSE(body.is_discarded()) << got->body;
        EXPECT_FALSE(body["error"]["message"].get<std::string>().empty());
    }
    EXPECT_FALSE(ask("/v1/chat/completions", chat())["choices"].empty());
}

TEST_F(ServerTest, a_body_that_is_too_large_is_refused) {
    const auto got = post("/v1/completions", std::string((4u << 20) + 1, 'x'));
    ASSERT_TRUE(got);
    EXPECT_EQ(got->status, 413);
    EXPECT_FALSE(Json::parse(got->body, nullptr, false).is_discarded());
}

/// A request whose answer is long: which seed gives one is the model's business.
Json ServerTest::long_answer() {
    for (int seed = 0; seed < 64; ++seed) {
        Json request = chat({{"temperature", 90}, {"seed", seed}, {"max_tokens", kLongAnswer}});
        if (ask("/v1/chat/completions", request)["usage"]["completion_tokens"] == kLongAnswer) return request;
    }
    ADD_FAILURE() << "the model always ends before " << kLongAnswer << " tokens";
    return chat();
}

/// Sends `request` and leaves in the middle of the answer; whether the server gave it up rather than finished
/// it. The answer cannot be complete before its client is gone, because the model is held back.
bool ServerTest::leave_early(Json request, bool stream) {
    const Json before = status()["requests"];
    test::slow_ms = 3; // a token takes some tens of them
    auto leaver = client();
    httplib::Request raw;
    raw.method = "POST";
    raw.path = "/v1/chat/completions";
    request["stream"] = stream;
    raw.body = request.dump();
    if (stream)
        raw.content_receiver = [](const char*, std::size_t, std::uint64_t, std::uint64_t) { return false; };
    std::thread sender([&] { static_cast<void>(leaver->send(raw)); });
    while (!stream && !status()["requests"]["busy"]) std::this_thread::sleep_for(1ms);
    if (!stream) leaver->stop();
    sender.join();
    leaver.reset();
    Json after = status()["requests"];
    for (; after["cancelled"] == before["cancelled"] && after["done"] == before["done"];
         after = status()["requests"])
        std::this_thread::sleep_for(5ms);
    test::slow_ms = 0;
    return after["cancelled"] > before["cancelled"];
}

TEST_F(ServerTest, a_client_that_goes_away_ends_its_generation) {
    const Json request = long_answer();
    EXPECT_TRUE(leave_early(request, true)) << "streamed";
    EXPECT_TRUE(leave_early(request, false)) << "whole";
    EXPECT_FALSE(ask("/v1/chat/completions", chat())["choices"].empty());
}

TEST_F(ServerTest, many_at_once_are_answered_or_told_to_come_back) {
    const std::string expected = ask("/v1/chat/completions", chat())["choices"][0]["message"]["content"];
    std::atomic<int> answered{0}, refused{0};
    std::vector<std::thread> clients;
    for (int i = 0; i < 6; ++i) {
        clients.emplace_back([&] {
            const auto got = post("/v1/chat/completions", chat().dump());
            ASSERT_TRUE(got);
            if (got->status == 503) {
                ++refused;
                EXPECT_EQ(got->get_header_value("Retry-After"), "1");
                return;
            }
            EXPECT_EQ(Json::parse(got->body)["choices"][0]["message"]["content"], expected);
            ++answered;
        });
    }
    for (auto& thread : clients) thread.join();
    EXPECT_EQ(answered + refused, 6);
    EXPECT_GE(answered, 1);
}

TEST_F(ServerTest, a_damaged_package_fails_its_requests_with_the_reason_and_heals_when_replaced) {
    world_->seal("torn", 1);
    const std::string path = world_->folder.path() + "/store/torn.flex";
    auto content = port::read_file(path, 1u << 30).value();
    const auto good = content;
    content[content.size() - 5000] ^= std::byte{1}; // in the last stage: found while the prompt is computed
    ASSERT_TRUE(port::write_file(path, content).ok());
    const auto got = post("/v1/chat/completions", chat({{"model", "torn"}}).dump());
    ASSERT_TRUE(got);
    EXPECT_EQ(got->status, 500);
    const Json error = Json::parse(got->body)["error"];
    EXPECT_EQ(error["code"], "model_refused");
    EXPECT_NE(error["message"].get<std::string>().find("chunk"), std::string::npos);
    ASSERT_TRUE(port::write_file(path, good).ok());
    EXPECT_FALSE(ask("/v1/chat/completions", chat({{"model", "torn"}}))["choices"].empty());
    std::filesystem::remove(path);
}

TEST_F(ServerTest, prompts_of_one_api_key_share_what_they_begin_with_and_another_s_do_not) {
    const auto cached = [&](const std::string& key) {
        auto asking = client();
        if (!key.empty()) asking->set_default_headers({{"Authorization", "Bearer " + key}});
        const auto got = asking->Post("/v1/chat/completions", chat().dump(), "application/json");
        return Json::parse(got->body)["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>();
    };
    const std::string mine(kMinApiKeyBytes, 'a'), theirs(kMinApiKeyBytes, 'b');
    EXPECT_EQ(cached(mine), 0);
    EXPECT_GT(cached(mine), 0);
    EXPECT_EQ(cached(theirs), 0);
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(cached("sk-no-key-required"), 0); // what everybody sends makes nobody one caller
        EXPECT_EQ(cached(""), 0);
    }
}

/// Two nodes that need each other's answers, and one beside them.
Json small_flow() {
    const auto node = [](const char* id, const char* prompt) {
        return Json{{"id", id}, {"model", "demo"}, {"prompt", prompt}, {"max_tokens", 6}, {"temperature", 0}};
    };
    return {{"name", "small"},
            {"inputs", {"question"}},
            {"nodes",
             {node("first", "{{question}}"), node("beside", "What is the NPU?"),
              node("last", "{{first.output}} {{beside.output}}")}},
            {"output", "<{{last.output}}>"}};
}

TEST_F(ServerTest, a_workflow_answers_and_shows_only_what_was_asked_for) {
    const Json body = {
        {"workflow", small_flow()}, {"inputs", {{"question", "What is Flex-Mem?"}}}, {"reveal", {"beside"}}};
    const Json done = ask("/v1/flexserve/workflows", body);
    EXPECT_EQ(done["type"], "workflow.finished");
    ASSERT_EQ(done["nodes"].size(), 3u);
    EXPECT_FALSE(done["nodes"][0].contains("output"));
    EXPECT_TRUE(done["nodes"][1].contains("output"));
    for (const Json& node : done["nodes"]) {
        EXPECT_EQ(node["state"], "done");
        EXPECT_GT(node["answer_tokens"], 0);
        EXPECT_LE(node["started_ms"], node["ended_ms"]);
    }
    EXPECT_GE(done["nodes"][2]["started_ms"], done["nodes"][0]["ended_ms"]);
    // The same answer as by hand.
    const auto by_hand = [&](const std::string& prompt) {
        Json request = chat({{"max_tokens", 6}});
        request["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
        return ask("/v1/chat/completions", request)["choices"][0]["message"]["content"].get<std::string>();
    };
    const std::string first = by_hand("What is Flex-Mem?"), beside = by_hand("What is the NPU?");
    EXPECT_EQ(done["output"], "<" + by_hand(first + " " + beside) + ">");
    EXPECT_EQ(done["nodes"][1]["output"], beside);
}

TEST_F(ServerTest, a_workflow_s_progress_is_streamed_without_the_answers_in_between) {
    const Json body = {
        {"workflow", small_flow()}, {"inputs", {{"question", "What is Flex-Mem?"}}}, {"stream", true}};
    const auto got = post("/v1/flexserve/workflows", body.dump());
    ASSERT_TRUE(got);
    std::map<std::string, int> types;
    std::istringstream lines(got->body);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("data: {")) ++types[Json::parse(line.substr(6))["type"]];
    }
    EXPECT_EQ(types,
              (std::map<std::string, int>{{"node.started", 3}, {"node.ended", 3}, {"workflow.finished", 1}}));
    EXPECT_NE(got->body.find("data: [DONE]"), std::string::npos);
}

TEST_F(ServerTest, a_workflow_that_makes_no_sense_is_refused_before_anything_runs) {
    const Json before = status()["requests"];
    Json circle = small_flow(), stranger = small_flow(), sampling = small_flow();
    circle["nodes"][0]["after"] = {"last"};
    stranger["nodes"][2]["model"] = "nope";
    sampling["nodes"][1]["temperature"] = -3;
    const std::pair<Json, int> bad[] = {{{{"workflow", circle}}, 400},
                                        {{{"workflow", stranger}}, 404},
                                        {{{"workflow", sampling}}, 400},
                                        {{{"workflow", small_flow()}, {"inputs", Json::object()}}, 400},
                                        {Json::object(), 400},
                                        {{{"workflow", 1}}, 400},
                                        {{{"workflow", small_flow()}, {"revael", true}}, 400}};
    for (auto [body, expected] : bad) {
        if (!body.contains("inputs")) body["inputs"] = {{"question", "q"}};
        const auto got = post("/v1/flexserve/workflows", body.dump());
        ASSERT_TRUE(got);
        EXPECT_EQ(got->status, expected) << got->body;
        EXPECT_FALSE(Json::parse(got->body)["error"]["message"].get<std::string>().empty());
    }
    EXPECT_EQ(status()["requests"]["done"], before["done"]);
    EXPECT_EQ(status()["requests"]["failed"], before["failed"]);
}

TEST_F(ServerTest, a_workflow_ends_at_its_deadline_and_with_its_client) {
    Json late = small_flow();
    late["deadline_ms"] = 1;
    const Json inputs = {{"question", "What is Flex-Mem?"}};
    test::slow_ms = 3;
    const auto got = post("/v1/flexserve/workflows", Json{{"workflow", late}, {"inputs", inputs}}.dump());
    ASSERT_TRUE(got);
    EXPECT_EQ(got->status, 504) << got->body;
    EXPECT_TRUE(Json::parse(got->body)["deadline"].get<bool>());

    const auto before = status()["requests"]["cancelled"].get<std::uint64_t>();
    auto leaver = client();
    const std::string body = Json{{"workflow", small_flow()}, {"inputs", inputs}}.dump();
    std::thread sender(
        [&] { static_cast<void>(leaver->Post("/v1/flexserve/workflows", body, "application/json")); });
    while (!status()["requests"]["busy"]) std::this_thread::sleep_for(1ms);
    leaver->stop();
    sender.join();
    while (status()["requests"]["cancelled"].get<std::uint64_t>() == before) std::this_thread::sleep_for(5ms);
    test::slow_ms = 0;
    while (status()["requests"]["busy"]) std::this_thread::sleep_for(5ms);
    EXPECT_EQ(ask("/v1/flexserve/workflows", {{"workflow", small_flow()}, {"inputs", inputs}})["type"],
              "workflow.finished");
}

TEST_F(ServerTest, callers_list_and_delete_their_own_sessions_only) {
    const auto by = [](const char* key) { return httplib::Headers{{"Prompt-Cache-Key", key}}; };
    const auto sessions = [&](const char* key) {
        const auto got = client()->Get("/flexserve/sessions", by(key));
        EXPECT_EQ(got->status, 200) << got->body;
        return Json::parse(got->body)["sessions"];
    };
    static_cast<void>(ask("/v1/chat/completions", chat({{"prompt_cache_key", "of-sessions"}})));
    // It is put back to the idle after its answer has gone out.
    while (sessions("of-sessions").size() != 1 || sessions("of-sessions")[0]["state"] == "running")
        std::this_thread::sleep_for(5ms);
    const Json session = sessions("of-sessions")[0];
    EXPECT_EQ(session["model"], "demo");
    EXPECT_GT(session["tokens"], 0);
    EXPECT_TRUE(sessions("of-another").empty());
    EXPECT_EQ(client()->Get("/flexserve/sessions")->status, 401);
    EXPECT_EQ(client()->Delete("/flexserve/sessions")->status, 401);
    const std::string path = "/flexserve/sessions/" + session["id"].get<std::string>();
    EXPECT_EQ(client()->Delete(path)->status, 401);
    EXPECT_EQ(client()->Delete(path, by("of-another"))->status, 404);
    EXPECT_EQ(client()->Delete("/flexserve/sessions/" + std::string(32, 'x'), by("of-sessions"))->status,
              404);
    EXPECT_EQ(sessions("of-sessions").size(), 1u);
    EXPECT_EQ(Json::parse(client()->Delete(path, by("of-sessions"))->body)["deleted"], 1);
    EXPECT_TRUE(sessions("of-sessions").empty());
    const Json again = ask("/v1/chat/completions", chat({{"prompt_cache_key", "of-sessions"}}));
    EXPECT_EQ(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    EXPECT_GE(status()["stored_conversations"]["limit"], 1);
}

TEST_F(ServerTest, what_tells_of_other_callers_is_the_operator_s) {
    const std::string token = operator_token();
    for (const char* path : {"/metrics", "/flexserve/status"}) {
        for (const std::string& wrong :
             {std::string(), std::string("x"), std::string(64, '0'), token + "0"}) {
            for (const httplib::Headers& headers : {httplib::Headers{{"Authorization", "Bearer " + wrong}},
                                                    httplib::Headers{{kOperatorHeader, wrong}}}) {
                const auto refused = client()->Get(path, headers);
                ASSERT_TRUE(refused);
                EXPECT_EQ(refused->status, 401) << path << " " << wrong;
                EXPECT_EQ(refused->body.find("models"), std::string::npos) << refused->body;
                EXPECT_EQ(refused->body.find("flexserve_"), std::string::npos) << refused->body;
            }
        }
        EXPECT_EQ(client()->Get(path, {{"Authorization", token}})->status, 401) << "no scheme, no token";
        EXPECT_EQ(client()->Get(path, {{"Authorization", "Bearer " + token}})->status, 200);
        EXPECT_EQ(client()->Get(path, {{kOperatorHeader, token}})->status, 200);
    }
}

TEST_F(ServerTest, all_logits_are_the_operator_s) {
    const Json request = chat({{"return_logits", true}, {"max_tokens", 1}});
    const auto ask_with = [&](const httplib::Headers& headers) {
        return client()->Post("/v1/chat/completions", headers, request.dump(), "application/json");
    };
    for (const httplib::Headers& headers :
         {httplib::Headers{}, httplib::Headers{{kOperatorHeader, std::string(64, '0')}}}) {
        const auto refused = ask_with(headers);
        ASSERT_TRUE(refused);
        EXPECT_EQ(refused->status, 403);
        EXPECT_EQ(refused->body.find("logits\":["), std::string::npos);
    }
    const auto got = ask_with({{kOperatorHeader, operator_token()}});
    ASSERT_TRUE(got);
    ASSERT_EQ(got->status, 200) << got->body;
    EXPECT_GT(Json::parse(got->body)["choices"][0]["logits"].size(), 100u);
}

TEST_F(ServerTest, metrics_are_well_formed_and_hold_no_secret) {
    static_cast<void>(ask("/v1/chat/completions", chat({{"prompt_cache_key", "a-secret-of-metrics"}})));
    const std::string token = operator_token();
    const auto got = client()->Get("/metrics", {{"Authorization", "Bearer " + token}});
    ASSERT_TRUE(got);
    ASSERT_EQ(got->status, 200);
    EXPECT_EQ(got->body.find("secret"), std::string::npos);
    EXPECT_EQ(got->body.find(token), std::string::npos);
    std::set<std::string> announced;
    std::istringstream lines(got->body);
    std::uint64_t last_bucket = 0;
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("# TYPE ")) announced.insert(line.substr(7, line.find(' ', 7) - 7));
        if (line.starts_with('#')) continue;
        std::string name = line.substr(0, line.find_first_of("{ "));
        for (const char* suffix : {"_bucket", "_sum", "_count"}) {
            if (name.starts_with("flexserve_first_token_seconds") && name.ends_with(suffix))
                name.resize(name.size() - std::strlen(suffix));
        }
        EXPECT_TRUE(announced.contains(name)) << line;
        char* end = nullptr;
        const double value = std::strtod(line.c_str() + line.rfind(' ') + 1, &end);
        EXPECT_EQ(*end, '\0') << line;
        if (!line.starts_with("flexserve_first_token_seconds_bucket{model=\"demo\"")) continue;
        EXPECT_GE(static_cast<std::uint64_t>(value), last_bucket) << line; // each holds the ones before
        last_bucket = static_cast<std::uint64_t>(value);
    }
    EXPECT_GT(last_bucket, 0u);
    EXPECT_NE(got->body.find("flexserve_requests_total{model=\"demo\",result=\"done\"}"), std::string::npos);
}

TEST_F(ServerTest, status_tells_what_is_loaded_and_that_nothing_is_protected_here) {
    static_cast<void>(ask("/v1/chat/completions", chat()));
    const Json s = status();
    EXPECT_EQ(s["protected"], false);
    EXPECT_TRUE(s["memory"]["frames"].contains("adopted"));
    bool found = false;
    for (const Json& model : s["models"]) {
        if (model["name"] != "demo") continue;
        found = true;
        EXPECT_GT(model["bytes_loaded"], 1000000);
        EXPECT_EQ(model["stages_loaded"], model["stages"]);
        EXPECT_EQ(model["context"], 512);
    }
    EXPECT_TRUE(found);
    EXPECT_GT(s["cache"]["stages_streamed"], 0);
    EXPECT_GT(s["cache"]["hits"].get<int>() + s["cache"]["misses"].get<int>(), 0);
}

TEST_F(ServerTest, models_that_nobody_uses_are_given_back) {
    static_cast<void>(ask("/v1/chat/completions", chat()));
    EXPECT_GT(world_->port->memory_info().mapped_bytes, 1000000u);
    std::uint64_t freed = 0;
    for (int i = 0; i < 50 && freed == 0; ++i) { // the connection's thread may still hold it for a moment
        freed = world_->server->models().give_back(1000001);
        std::this_thread::sleep_for(20ms);
    }
    EXPECT_GT(freed, 1000000u);
    EXPECT_FALSE(ask("/v1/chat/completions", chat())["choices"].empty()); // and loaded again
}

} // namespace
} // namespace flex::api
