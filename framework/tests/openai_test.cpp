#include "api/openai.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace flex::api {
namespace {

using Json = nlohmann::json;

CompletionRequest good(Endpoint endpoint, const std::string& body) {
    auto parsed = parse_request(endpoint, body);
    EXPECT_TRUE(parsed.ok()) << (parsed.ok() ? "" : parsed.error().message);
    return std::move(*parsed);
}

TEST(OpenAi, a_chat_request_is_read_in_full) {
    const auto r = good(Endpoint::kChat, R"({"model":"m","messages":[
        {"role":"developer","content":"be brief"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],
        "temperature":0.5,"top_p":0.9,"top_k":7,"min_p":0.1,"seed":42,"max_completion_tokens":9,"stop":["x","y"],
        "stream":true,"stream_options":{"include_usage":true},"prompt_cache_key":"k","npu":"off","chat_template_kwargs":{"enable_thinking":false},
        "n":1,"user":"somebody","logit_bias":{},"tools":[],"response_format":{"type":"text"},"logprobs":false})");
    EXPECT_EQ(r.model, "m");
    EXPECT_EQ(r.options.npu, engine::NpuUse::kOff);
    ASSERT_EQ(r.conversation.messages.size(), 2u);
    EXPECT_EQ(r.conversation.messages[0].role, tokenizer::Role::kSystem);
    EXPECT_EQ(r.conversation.messages[1].content, "ab");
    EXPECT_FLOAT_EQ(r.options.sampler.temperature, 0.5F);
    EXPECT_FLOAT_EQ(r.options.sampler.top_p, 0.9F);
    EXPECT_EQ(r.options.sampler.top_k, 7u);
    EXPECT_FLOAT_EQ(r.options.sampler.min_p, 0.1F);
    EXPECT_EQ(r.options.sampler.seed, 42u);
    EXPECT_TRUE(r.has_seed);
    EXPECT_EQ(r.max_tokens, 9u);
    EXPECT_EQ(r.options.stop, (std::vector<std::string>{"x", "y"}));
    EXPECT_TRUE(r.stream);
    EXPECT_TRUE(r.stream_usage);
    EXPECT_EQ(r.conversation.thinking, false);
    EXPECT_EQ(r.cache_key, "k");
}

TEST(OpenAi, sampling_options_are_read) {
    const auto r =
        good(Endpoint::kChat, R"({"model":"m","messages":[{"role":"user","content":"x"}],"repeat_penalty":1.1,
        "presence_penalty":-2,"frequency_penalty":0.5,"logit_bias":{"7":-100,"8":1.5},"logprobs":true,"top_logprobs":3})");
    EXPECT_FLOAT_EQ(r.options.sampler.repeat_penalty, 1.1F);
    EXPECT_FLOAT_EQ(r.options.sampler.presence_penalty, -2.0F);
    EXPECT_FLOAT_EQ(r.options.sampler.frequency_penalty, 0.5F);
    EXPECT_EQ(r.options.sampler.logit_bias,
              (std::vector<std::pair<TokenId, float>>{{7, -100.0F}, {8, 1.5F}}));
    EXPECT_TRUE(r.options.logprobs);
    EXPECT_EQ(r.options.top_logprobs, 3u);
    const auto c = good(Endpoint::kCompletion, R"({"model":"m","prompt":"x","logprobs":2})");
    EXPECT_TRUE(c.options.logprobs);
    EXPECT_EQ(c.options.top_logprobs, 2u);
    EXPECT_TRUE(good(Endpoint::kCompletion, R"({"model":"m","prompt":"x","logprobs":0})").options.logprobs);
    EXPECT_FALSE(
        good(Endpoint::kCompletion, R"({"model":"m","prompt":"x","logprobs":null})").options.logprobs);
}

TEST(OpenAi, tools_calls_and_reasoning_are_read) {
    const auto r =
        good(Endpoint::kChat, R"({"model":"m","tools":[{"type":"function","function":{"name":"f"}}],
        "tool_choice":"auto","messages":[{"role":"user","content":"x"},
        {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[
          {"id":"1","type":"function","function":{"name":"f","arguments":"{\"b\": [1,2], \"a\": \"\u00e9\"}"}}]},
        {"role":"tool","tool_call_id":"1","content":"y"}]})");
    const auto& c = r.conversation;
    EXPECT_EQ(c.tools, (std::vector<std::string>{R"({"type":"function","function":{"name":"f"}})"}));
    ASSERT_EQ(c.messages.size(), 3u);
    EXPECT_EQ(c.messages[1].reasoning, "hm");
    ASSERT_EQ(c.messages[1].calls.size(), 1u);
    EXPECT_EQ(c.messages[1].calls[0].name, "f");
    EXPECT_EQ(c.messages[1].calls[0].arguments, "{\"b\":[1,2],\"a\":\"\u00e9\"}"); // in the client's order
    EXPECT_EQ(c.messages[2].role, tokenizer::Role::kTool);
    const auto none =
        good(Endpoint::kChat, R"({"model":"m","tools":[{"type":"function","function":{"name":"f"}}],
        "tool_choice":"none","messages":[{"role":"user","content":"x"}]})");
    EXPECT_TRUE(none.conversation.tools.empty());
}

TEST(OpenAi, log_probabilities_have_the_api_s_shape) {
    CompletionRequest request;
    request.options.logprobs = true;
    const std::vector<AnswerLogprobs> logprobs = {{{"a\xc3", -0.5F}, {{"a\xc3", -0.5F}, {"b", -1.0F}}}};
    const Json chat = Json::parse(format_answer({Endpoint::kChat, "i", 0, "m"}, request, "t", logprobs, {}));
    const Json& place = chat["choices"][0]["logprobs"]["content"][0];
    EXPECT_EQ(place["bytes"], (Json{0x61, 0xc3})); // the text of half a character says nothing; its bytes do
    EXPECT_FLOAT_EQ(place["logprob"], -0.5F);
    EXPECT_EQ(place["top_logprobs"][1]["token"], "b");
    const Json text =
        Json::parse(format_answer({Endpoint::kCompletion, "i", 0, "m"}, request, "t", logprobs, {}));
    EXPECT_FLOAT_EQ(text["choices"][0]["logprobs"]["top_logprobs"][0]["b"], -1.0F);
    EXPECT_EQ(text["choices"][0]["logprobs"]["tokens"].size(), 1u);
    const std::string event = format_text_event({Endpoint::kChat, "i", 0, "m"}, request, "t", logprobs);
    EXPECT_EQ(Json::parse(event.substr(6))["choices"][0]["logprobs"]["content"].size(), 1u);
}

TEST(OpenAi, the_defaults_are_those_of_the_api) {
    const auto r = good(Endpoint::kCompletion, R"({"model":"m","prompt":"text","stop":null,"seed":null})");
    EXPECT_FLOAT_EQ(r.options.sampler.temperature, 1.0F);
    EXPECT_FLOAT_EQ(r.options.sampler.top_p, 1.0F);
    EXPECT_FALSE(r.stream);
    EXPECT_FALSE(r.has_seed);
    EXPECT_EQ(r.prompt, "text");
    EXPECT_TRUE(r.options.stop.empty());
}

TEST(OpenAi, a_prompt_may_be_tokens) {
    EXPECT_EQ(good(Endpoint::kCompletion, R"({"model":"m","prompt":[1,2,3]})").prompt_tokens,
              (std::vector<TokenId>{1, 2, 3}));
    EXPECT_EQ(good(Endpoint::kCompletion, R"({"model":"m","prompt":["one"]})").prompt, "one");
}

struct Bad {
    const char* body;
    const char* word; ///< that the message must have
};

class BadChat : public testing::TestWithParam<Bad> {};

TEST_P(BadChat, is_refused_and_the_field_named) {
    const auto parsed = parse_request(Endpoint::kChat, GetParam().body);
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(parsed.error().message.find(GetParam().word), std::string::npos) << parsed.error().message;
}

#define M R"("model":"m","messages":[{"role":"user","content":"x"}])"
const Bad kBadChats[] = {
    {"", "not JSON"},
    {"{", "not JSON"},
    {"nonsense", "not JSON"},
    {"\xff\xfe", "not JSON"},
    {"[]", "JSON object"},
    {"null", "JSON object"},
    {R"({"messages":[{"role":"user","content":"x"}]})", "model"},
    {R"({"model":7,"messages":[{"role":"user","content":"x"}]})", "model"},
    {R"({"model":"m"})", "messages"},
    {R"({"model":"m","messages":[]})", "messages"},
    {R"({"model":"m","messages":"x"})", "messages"},
    {R"({"model":"m","messages":["x"]})", "role"},
    {R"({"model":"m","messages":[{"content":"x"}]})", "role"},
    {R"({"model":"m","messages":[{"role":"user"}]})", "content"},
    {R"({"model":"m","messages":[{"role":"wizard","content":"x"}]})", "wizard"},
    {R"({"model":"m","messages":[{"role":"user","content":5}]})", "content"},
    {R"({"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "text"},
    {"{" M R"(,"temperature":-1})", "temperature"},
    {"{" M R"(,"temperature":"hot"})", "temperature"},
    {"{" M R"(,"temperature":1e999})", ""},
    {"{" M R"(,"top_p":0})", "top"},
    {"{" M R"(,"top_p":1.5})", "top"},
    {"{" M R"(,"min_p":1})", "min"},
    {"{" M R"(,"top_k":-1})", "top_k"},
    {"{" M R"(,"max_tokens":0})", "max_tokens"},
    {"{" M R"(,"max_tokens":-5})", "max_tokens"},
    {"{" M R"(,"max_tokens":1.5})", "max_tokens"},
    {"{" M R"(,"max_tokens":99999999999})", "max_tokens"},
    {"{" M R"(,"seed":"x"})", "seed"},
    {"{" M R"(,"stop":""})", "stop"},
    {"{" M R"(,"stop":[1]})", "stop"},
    {"{" M R"(,"stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]})",
     "stop"},
    {"{" M R"(,"stream":1})", "stream"},
    {"{" M R"(,"stream_options":[]})", "stream_options"},
    {"{" M R"(,"n":2})", "n must be 1"},
    {"{" M R"(,"logprobs":5})", "logprobs"},
    {"{" M R"(,"top_logprobs":5})", "needs logprobs"},
    {"{" M R"(,"logprobs":true,"top_logprobs":21})", "at most 20"},
    {"{" M R"(,"presence_penalty":2.1})", "presence_penalty"},
    {"{" M R"(,"frequency_penalty":-3})", "frequency_penalty"},
    {"{" M R"(,"frequency_penalty":"x"})", "frequency_penalty"},
    {"{" M R"(,"repeat_penalty":0})", "repeat_penalty"},
    {"{" M R"(,"logit_bias":[]})", "logit_bias"},
    {"{" M R"(,"logit_bias":{"x":2}})", "logit_bias"},
    {"{" M R"(,"logit_bias":{"-1":2}})", "logit_bias"},
    {"{" M R"(,"logit_bias":{"99999999999":2}})", "logit_bias"},
    {"{" M R"(,"logit_bias":{"1":"2"}})", "logit_bias"},
    {"{" M R"(,"logit_bias":{"1":101}})", "from -100 to 100"},
    {"{" M R"(,"tools":5})", "tools"},
    {"{" M R"(,"tools":[{"type":"function","function":{}}]})", "tools"},
    {"{" M R"(,"tool_choice":"required"})", "tool_choice"},
    {R"({"model":"m","messages":[{"role":"assistant","tool_calls":5}]})", "tool_calls"},
    {R"({"model":"m","messages":[{"role":"user","content":"","tool_calls":[]}]})", "tool_calls"},
    {R"({"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}]})",
     "JSON object"},
    {R"({"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]})",
     "JSON object"},
    {R"({"model":"m","messages":[{"role":"assistant","content":"x","reasoning_content":5}]})",
     "reasoning_content"},
    {"{" M R"(,"tools":[{}]})", "tools"},
    {"{" M R"(,"response_format":{"type":"json_object"}})", "response_format"},
    {"{" M R"(,"response_format":{"type":5}})", "response_format"},
    {"{" M R"(,"chat_template_kwargs":5})", "chat_template_kwargs"},
    {"{" M R"(,"prompt_cache_key":5})", "prompt_cache_key"},
    {"{" M R"(,"npu":5})", "npu"},
    {"{" M R"(,"npu":"perhaps"})", "NPU"},
};
#undef M
INSTANTIATE_TEST_SUITE_P(Table, BadChat, testing::ValuesIn(kBadChats));

TEST(OpenAi, json_cannot_be_nested_without_end) {
    const std::string deep = R"({"model":)" + std::string(100000, '[');
    EXPECT_NE(parse_request(Endpoint::kChat, deep).error().message.find("nested"), std::string::npos);
    // Brackets inside a string are only text.
    const auto r =
        good(Endpoint::kCompletion, R"({"model":"m","prompt":"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["})");
    EXPECT_EQ(r.prompt.size(), 41u);
}

TEST(OpenAi, a_bad_prompt_is_refused) {
    for (const char* body :
         {R"({"model":"m"})", R"({"model":"m","prompt":5})", R"({"model":"m","prompt":[]})",
          R"({"model":"m","prompt":["a","b"]})", R"({"model":"m","prompt":[-1]})",
          R"({"model":"m","prompt":[4294967296]})", R"({"model":"m","prompt":[[1]]})"}) {
        EXPECT_FALSE(parse_request(Endpoint::kCompletion, body).ok()) << body;
    }
}

GenerationResult result() {
    GenerationResult r;
    r.prompt_tokens = 5;
    r.cached_tokens = 2;
    r.tokens = {10, 11, 12};
    r.stopped = true;
    r.timings.ttft_ms = 12.5;
    r.timings.decrypt_ms = 3;
    return r;
}

TEST(OpenAi, a_chat_answer_has_the_api_s_shape) {
    CompletionRequest request;
    const Json answer =
        Json::parse(format_answer({Endpoint::kChat, "chatcmpl-1", 99, "m"}, request, "text", {}, result()));
    EXPECT_EQ(answer["object"], "chat.completion");
    EXPECT_EQ(answer["id"], "chatcmpl-1");
    EXPECT_EQ(answer["created"], 99);
    EXPECT_EQ(answer["model"], "m");
    EXPECT_EQ(answer["choices"][0]["index"], 0);
    EXPECT_EQ(answer["choices"][0]["message"], Json({{"role", "assistant"}, {"content", "text"}}));
    EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
    EXPECT_EQ(answer["usage"]["prompt_tokens"], 5);
    EXPECT_EQ(answer["usage"]["completion_tokens"], 3);
    EXPECT_EQ(answer["usage"]["total_tokens"], 8);
    EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    for (const char* part :
         {"allocate_ms", "load_ms", "decrypt_ms", "compute_ms", "ttft_ms", "decode_tokens_per_second",
          "npu_ms", "npu_passes"}) {
        EXPECT_TRUE(answer["timings"][part].is_number()) << part;
    }
    EXPECT_EQ(answer["timings"]["ttft_ms"], 12.5);
}

TEST(OpenAi, a_plain_completion_has_the_api_s_shape) {
    CompletionRequest request;
    request.echo = true;
    request.prompt = "before ";
    request.return_tokens = true;
    auto r = result();
    r.stopped = false;
    const Json answer =
        Json::parse(format_answer({Endpoint::kCompletion, "cmpl-1", 99, "m"}, request, "text", {}, r));
    EXPECT_EQ(answer["object"], "text_completion");
    EXPECT_EQ(answer["choices"][0]["text"], "before text");
    EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
    EXPECT_EQ(answer["choices"][0]["tokens"], Json({10, 11, 12}));
}

TEST(OpenAi, an_answer_that_is_not_utf8_is_still_json) {
    CompletionRequest request;
    const std::string text = format_answer({Endpoint::kChat, "i", 0, "m"}, request, "a\xff", {}, result());
    EXPECT_FALSE(Json::parse(text, nullptr, false).is_discarded());
}

std::vector<std::string> events_of(std::string stream) {
    std::vector<std::string> events;
    for (std::size_t end; (end = stream.find("\n\n")) != std::string::npos; stream.erase(0, end + 2)) {
        EXPECT_TRUE(stream.starts_with("data: "));
        events.push_back(stream.substr(6, end - 6));
    }
    EXPECT_TRUE(stream.empty());
    return events;
}

TEST(OpenAi, a_stream_has_the_api_s_shape) {
    CompletionRequest request;
    request.stream_usage = true;
    const AnswerHead head{Endpoint::kChat, "chatcmpl-1", 99, "m"};
    const auto events =
        events_of(format_first_event(head) + format_text_event(head, request, "two\n\nlines", {}) +
                  format_last_events(head, request, result()));
    ASSERT_EQ(events.size(), 5u);
    EXPECT_EQ(Json::parse(events[0])["choices"][0]["delta"]["role"], "assistant");
    EXPECT_EQ(Json::parse(events[0])["object"], "chat.completion.chunk");
    EXPECT_EQ(Json::parse(events[1])["choices"][0]["delta"]["content"], "two\n\nlines");
    EXPECT_TRUE(Json::parse(events[1])["choices"][0]["finish_reason"].is_null());
    EXPECT_EQ(Json::parse(events[2])["choices"][0]["finish_reason"], "stop");
    EXPECT_TRUE(Json::parse(events[2])["timings"].is_object());
    EXPECT_TRUE(Json::parse(events[3])["choices"].empty());
    EXPECT_EQ(Json::parse(events[3])["usage"]["total_tokens"], 8);
    EXPECT_EQ(events[4], "[DONE]");
}

TEST(OpenAi, errors_have_the_api_s_shape_and_status) {
    const std::pair<ErrorCode, int> statuses[] = {
        {ErrorCode::kInvalidArgument, 400}, {ErrorCode::kContextFull, 400},
        {ErrorCode::kNotFound, 404},        {ErrorCode::kBusy, 503},
        {ErrorCode::kForbidden, 403},
        {ErrorCode::kOutOfMemory, 503},     {ErrorCode::kAuthentication, 500}};
    for (const auto& [code, status] : statuses) {
        EXPECT_EQ(http_status(code), status);
        const Json body = Json::parse(format_error(fail(code, "why \"so\"")));
        EXPECT_EQ(body["error"]["message"], "why \"so\"");
        EXPECT_TRUE(body["error"]["type"].is_string());
        EXPECT_TRUE(body["error"].contains("param"));
        EXPECT_TRUE(body["error"].contains("code"));
    }
    EXPECT_EQ(Json::parse(format_error(fail(ErrorCode::kContextFull, "x")))["error"]["code"],
              "context_length_exceeded");
}

TEST(OpenAi, the_list_of_models_has_the_api_s_shape) {
    const Json list = Json::parse(format_models({"a", "b"}));
    EXPECT_EQ(list["object"], "list");
    EXPECT_EQ(list["data"][1]["id"], "b");
    EXPECT_EQ(list["data"][1]["object"], "model");
}

} // namespace
} // namespace flex::api
