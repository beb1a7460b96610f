#include "package/jinja.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "package/render_probes.h" // kRenderProbes, the text of render_probes.py

extern char** environ;

namespace flex::package {
namespace {

using Json = nlohmann::ordered_json;
using tokenizer::ChatMessage;
using tokenizer::Conversation;

constexpr std::size_t kMaxOutput = 512u << 20;

Json as_json(const ChatMessage& message) {
    Json out = {{"role", tokenizer::name_of(message.role)}, {"content", message.content}};
    if (!message.reasoning.empty()) out["reasoning_content"] = message.reasoning;
    for (const tokenizer::ToolCall& call : message.calls) {
        Json function = {{"name", call.name}, {"arguments", Json::parse(call.arguments)}};
        out["tool_calls"].push_back({{"type", "function"}, {"function", std::move(function)}});
    }
    return out;
}

Json as_json(const Conversation& conversation) {
    Json out = {{"messages", Json::array()}, {"add_generation_prompt", conversation.open_answer}};
    for (const ChatMessage& message : conversation.messages) out["messages"].push_back(as_json(message));
    for (const std::string& tool : conversation.tools) out["tools"].push_back(Json::parse(tool));
    if (conversation.thinking) out["enable_thinking"] = *conversation.thinking;
    return out;
}

/// An end of a pipe.
class Descriptor {
public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    ~Descriptor() { close(); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }
    [[nodiscard]] int get() const { return fd_; }

private:
    int fd_;
};

/// Feeds `input` to the child and takes what it says, both at once: neither pipe can fill up for good.
Status exchange(Descriptor& to, Descriptor& from, std::string_view input, std::string& output) {
    std::array<char, 65536> buffer;
    ::fcntl(to.get(), F_SETFL, O_NONBLOCK);
    for (;;) {
        pollfd ends[] = {{from.get(), POLLIN, 0}, {to.get(), POLLOUT, 0}}; // a negative one is passed over
        if (::poll(ends, 2, -1) < 0 && errno != EINTR) return fail(ErrorCode::kIo, std::strerror(errno));
        if (ends[1].revents != 0) {
            const auto wrote = ::write(to.get(), input.data(), input.size());
            if (wrote > 0) input.remove_prefix(static_cast<std::size_t>(wrote));
            if (input.empty() || (wrote < 0 && errno != EAGAIN && errno != EINTR)) to.close();
        }
        if (ends[0].revents == 0) continue;
        const auto got = ::read(from.get(), buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return {};
        output.append(buffer.data(), static_cast<std::size_t>(got));
        if (output.size() > kMaxOutput)
            return fail(ErrorCode::kCorrupt, "the chat template writes without end");
    }
}

/// What a template says may come from anybody: nothing of it may steer a terminal.
std::string printable(std::string text) {
    for (char& c : text) c = c >= 0x20 && c < 0x7f ? c : '?';
    return text;
}

/// Runs Python on the script with `input` on its standard input.
Result<std::string> run_script(std::string_view input) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0) return fail(ErrorCode::kIo, std::strerror(errno));
    Descriptor in_read(in[0]), in_write(in[1]);
    if (::pipe2(out, O_CLOEXEC) != 0) return fail(ErrorCode::kIo, std::strerror(errno));
    Descriptor out_read(out[0]), out_write(out[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in_read.get(), 0);
    ::posix_spawn_file_actions_adddup2(&actions, out_write.get(), 1);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    std::string script(kRenderProbes), python = "python3", isolated = "-I", command = "-c";
    char* arguments[] = {python.data(), isolated.data(), command.data(), script.data(), nullptr};
    pid_t child = 0;
    const int failed = ::posix_spawnp(&child, "python3", &actions, nullptr, arguments, environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed != 0)
        return fail(ErrorCode::kNotFound,
                    "turning the chat template into its sealed form needs python3-jinja2; "
                    "install it (apt-get install python3-jinja2)");
    in_read.close();
    out_write.close();
    // A child that dies early must not take us with it.
    struct sigaction ignore {
    }, before{};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &before);
    std::string output;
    const Status done = exchange(in_write, out_read, input, output);
    in_write.close();
    out_read.close();
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    ::sigaction(SIGPIPE, &before, nullptr);
    FLEX_TRY(done);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return fail(ErrorCode::kCorrupt,
                    "the chat template takes too much time or memory to render (a minute, 2 GiB)");
    }
    return output;
}

} // namespace

Result<std::vector<Rendering>> render_jinja(const JinjaTemplate& jinja,
                                            std::span<const Conversation> conversations) {
    Json task = {{"template", jinja.text},
                 {"bos_token", jinja.bos_token},
                 {"eos_token", jinja.eos_token},
                 {"probes", Json::array()}};
    for (const Conversation& conversation : conversations) task["probes"].push_back(as_json(conversation));
    FLEX_ASSIGN(const std::string output,
                run_script(task.dump(-1, ' ', false, Json::error_handler_t::replace)));
    const Json answer = Json::parse(output, nullptr, false);
    if (!answer.is_object()) return fail(ErrorCode::kInternal, "the renderer of chat templates said nothing");
    if (answer.contains("missing"))
        return fail(ErrorCode::kNotFound,
                    "turning the chat template into its sealed form needs python3-jinja2; "
                    "install it (apt-get install python3-jinja2)");
    if (answer.contains("broken"))
        return fail(ErrorCode::kCorrupt,
                    "the chat template is not Jinja: " + printable(answer["broken"].get<std::string>()));
    std::vector<Rendering> renderings;
    for (const Json& render : answer["renders"]) {
        if (render.is_string())
            renderings.push_back({false, render.get<std::string>()});
        else
            renderings.push_back({true, printable(render.value("refused", ""))});
    }
    if (renderings.size() != conversations.size())
        return fail(ErrorCode::kInternal, "the renderer of chat templates lost a rendering");
    return renderings;
}

} // namespace flex::package
