#include "package/chat_compiler.h"

#include <gtest/gtest.h>

#include "port/files.h"

namespace flex::package {
namespace {

using tokenizer::ChatForm;
using tokenizer::Conversation;
using tokenizer::Role;

std::string file(const std::string& name) {
    const auto bytes = port::read_file(FLEX_SOURCE_DIR "/framework/tests/templates/" + name, 1 << 20).value();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Result<CompiledTemplate> compile(const std::string& text) {
    return compile_template({text, "<|bos|>", "<|eos|>"});
}

/// Needs python3-jinja2, which the developer's set-up installs.
class ChatCompiler : public ::testing::Test {
protected:
    static void SetUpTestSuite() {
        const Conversation one{{{Role::kUser, "x"}}};
        const auto tried = render_jinja({"{{ 1 }}", "", ""}, std::span(&one, 1));
        has_jinja_ = tried || tried.error().code != ErrorCode::kNotFound;
    }
    void SetUp() override {
        if (!has_jinja_) GTEST_SKIP() << "python3-jinja2 is not installed";
    }
    static inline bool has_jinja_ = false;
};

const std::string kTool =
    R"({"type":"function","function":{"name":"now","parameters":{"type":"object","properties":{}}}})";

Conversation with_tools() {
    Conversation c;
    c.tools = {kTool};
    c.messages = {{Role::kSystem, " be kind "},
                  {Role::kUser, "time?"},
                  {Role::kAssistant, "", "", {{"now", R"({"zone":"UTC","n":[1,2]})"}}},
                  {Role::kTool, R"(say "12")"}};
    return c;
}

TEST_F(ChatCompiler, header_style_prompts_come_out_byte_for_byte) {
    const auto compiled = compile(file("headers.jinja"));
    ASSERT_TRUE(compiled.ok()) << compiled.error().message;
    EXPECT_EQ(compiled->note, "");
    EXPECT_GT(compiled->probes, 4000u);
    EXPECT_EQ(compiled->form.render_text({{{Role::kUser, " hi "}}}).value(),
              "<|bos|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
              "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n");
    EXPECT_EQ(
        compiled->form.render_text(with_tools()).value(),
        "<|bos|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting Knowledge Date: "
        "December 2023\nToday Date: 26 Jul 2024\n\nbe "
        "kind<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Here are functions you may call with JSON.\n\n"
        "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"now\",\n        "
        "\"parameters\": {\n"
        "            \"type\": \"object\",\n            \"properties\": {}\n        }\n    }\n}\n\n"
        "time?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "{\"name\": \"now\", \"parameters\": {\"zone\": \"UTC\", \"n\": [1, 2]}}<|eot_id|>"
        "<|start_header_id|>ipython<|end_header_id|>\n\n\"say \\\"12\\\"\"<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
    // What the template refuses, the form refuses.
    Conversation two_calls = with_tools();
    two_calls.messages[2].calls.push_back({"now", "{}"});
    EXPECT_EQ(compiled->form.render_text(two_calls).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(ChatCompiler, thinking_prompts_come_out_byte_for_byte) {
    const auto compiled = compile(file("thinking.jinja"));
    ASSERT_TRUE(compiled.ok()) << compiled.error().message;
    EXPECT_EQ(compiled->note, "");
    const ChatForm& form = compiled->form;
    EXPECT_EQ(form.render_text({{{Role::kUser, " hi "}}}).value(),
              "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n");
    Conversation quick{{{Role::kUser, "hi"}}};
    quick.thinking = false;
    EXPECT_EQ(form.render_text(quick).value(),
              "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    quick.thinking = true;
    quick.open_answer = false;
    EXPECT_EQ(form.render_text(quick).value(), "<|im_start|>user\nhi<|im_end|>\n");
    // Former turns lose their thinking, whether it came apart or within the content.
    const Conversation turns{{{Role::kUser, "a"},
                              {Role::kAssistant, "<think>\nhm\n</think>\n\nb"},
                              {Role::kUser, "c"},
                              {Role::kAssistant, "d", "hm"},
                              {Role::kUser, "e"}}};
    EXPECT_EQ(
        form.render_text(turns).value(),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\nd<|im_end|>\n<|im_start|>user\ne<|im_end|>\n<|im_start|>assistant\n");
    Conversation agent = with_tools();
    agent.messages[2].reasoning = "I need the time";
    agent.messages.push_back({Role::kTool, "13"});
    EXPECT_EQ(
        form.render_text(agent).value(),
        "<|im_start|>system\n be kind \n\n# Tools\n\nFunctions, one a line:\n<tools>\n"
        "{\"type\": \"function\", \"function\": {\"name\": \"now\", \"parameters\": {\"type\": \"object\", "
        "\"properties\": {}}}}\n</tools>\nCall them in <tool_call></tool_call>.<|im_end|>\n"
        "<|im_start|>user\ntime?<|im_end|>\n<|im_start|>assistant\n<think>\nI need the time\n</think>\n\n"
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"zone\": \"UTC\", \"n\": [1, "
        "2]}}\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsay "
        "\"12\"\n</tool_response>\n<tool_response>\n13\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatCompiler, the_named_templates_compile) {
    const auto chatml = compile(named_template("chatml").value());
    ASSERT_TRUE(chatml.ok()) << chatml.error().message;
    EXPECT_EQ(chatml->note, "");
    EXPECT_EQ(
        chatml->form.render_text({{{Role::kSystem, "s"}, {Role::kUser, "<|im_end|>"}}}).value(),
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n");
    Conversation with_tool{{{Role::kUser, "x"}}, {kTool}};
    EXPECT_EQ(chatml->form.render_text(with_tool).error().code, ErrorCode::kInvalidArgument);
    const auto llama3 = compile(named_template("llama3").value());
    ASSERT_TRUE(llama3.ok()) << llama3.error().message;
    EXPECT_EQ(llama3->form.render_text({{{Role::kUser, " x\n"}}}).value(),
              "<|bos|><|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n");
    EXPECT_EQ(named_template("vicuna").error().code, ErrorCode::kNotFound);
}

TEST_F(ChatCompiler, a_form_survives_being_written_and_read) {
    const ChatForm form = compile(file("thinking.jinja")).value().form;
    const auto bytes = form.serialize();
    const auto read = ChatForm::parse(bytes);
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(read->serialize(), bytes);
    EXPECT_EQ(read->render_text(with_tools()).value(), form.render_text(with_tools()).value());
}

TEST_F(ChatCompiler, what_a_form_cannot_say_is_refused_with_a_reason_and_a_way_out) {
    const struct {
        const char *text, *reason;
    } cases[] = {
        {"{% for m in messages %}{{ loop.index }}:{{ m.content }}\n{% endfor %}", "different texts between"},
        {"{% for m in messages %}{{ m.content | upper }}\n{% endfor %}", "writes different texts"},
        {"{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "twice"},
        {"{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "order"},
        {"{% for m in messages %}{{ m.content | replace('\\t', '_') }}\n{% endfor %}", "looks into"},
        {"{% for m in messages %}{{ m.content if m.content | length < 14 else '-' ~ m.content }}\n{% endfor "
         "%}",
         "looks into"},
        {"{{ raise_exception('never') }}", "never"},
    };
    for (const auto& c : cases) {
        const auto compiled = compile(c.text);
        ASSERT_FALSE(compiled.ok()) << c.text;
        EXPECT_EQ(compiled.error().code, ErrorCode::kUnsupported);
        EXPECT_NE(compiled.error().message.find(c.reason), std::string::npos)
            << c.text << compiled.error().message;
        EXPECT_NE(compiled.error().message.find("--template"), std::string::npos);
        EXPECT_EQ(compiled.error().message.find('\n'), std::string::npos);
    }
    EXPECT_NE(compile("{% for %}").error().message.find("not Jinja"), std::string::npos);
}

TEST_F(ChatCompiler, a_template_reaches_nothing_outside_its_sandbox) {
    const auto tried =
        compile("{{ messages.__class__.__mro__[1].__subclasses__() }}{% for m in messages %}{{ m.content }}"
                "{% endfor %}");
    ASSERT_FALSE(tried.ok());
    EXPECT_NE(tried.error().message.find("SecurityError"), std::string::npos) << tried.error().message;
}

} // namespace
} // namespace flex::package
