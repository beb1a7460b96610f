// flexserve run NAME ["prompt"], flexserve chat NAME: ask a model in the device, over HTTPS pinned to it.
#include "cli/client.h"

#include <editline/readline.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <spdlog/spdlog.h>

#include "base/crypto.h"
#include "cli/client_api.h"
#include "cli/client_native.h"
#include "cli/output.h"
#include "launcher/device.h"

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

std::atomic<bool>& interrupted = InterruptGuard::interrupted();

struct RunArguments {
    std::string model, prompt;
    AskOptions ask;
    bool native = false;
    unsigned context = 0;
    std::uint64_t seed = 0;
};

/// Where the model is, and the client that talks to it.
struct Session {
    std::unique_ptr<NativeServer> native; // only with --native
    std::unique_ptr<ApiClient> client;
    std::string model;
    bool is_protected = false;
};

Session connect(const RunArguments& arguments) {
    Session session;
    if (arguments.native) {
        session.native = std::make_unique<NativeServer>(arguments.model, arguments.context);
        session.model = session.native->model();
        session.client = std::make_unique<ApiClient>(session.native->port(), session.native->ca_file());
        if (!json_wanted())
            spdlog::warn("--native: the model and this conversation are NOT protected on this machine");
        return session;
    }
    const platform::Device device(platform::device_folder());
    if (!fs::exists(device.folder() / "store" / (arguments.model + ".flex"))) {
        throw std::runtime_error("there is no model \"" + arguments.model +
                                 "\" in the device's store; make one with: flexserve seal MODEL.gguf -o " +
                                 arguments.model + ".flex");
    }
    session.client = std::make_unique<ApiClient>(connect_to(device));
    session.model = arguments.model;
    session.is_protected = session.client->status().is_protected;
    return session;
}

void print_text(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

int run_once(const RunArguments& arguments) {
    Session session = connect(arguments);
    const InterruptGuard guard;
    const bool json = json_wanted();
    const Answer answer = session.client->ask(session.model, {{"user", arguments.prompt}}, arguments.ask, "",
                                              json ? nullptr : print_text, &interrupted);
    if (json)
        std::printf("%s\n", to_json(answer, session.model, session.is_protected).c_str());
    else
        std::printf("\n");
    return answer.interrupted ? 130 : 0;
}

/// The key under which the device may keep this conversation's state: nobody else can name it.
std::string conversation_key() {
    std::array<std::byte, 16> key;
    if (!crypto::random(key)) return {};
    return crypto::hex(key);
}

/// Line input with history, from a terminal; plain lines otherwise.
class LineReader {
public:
    explicit LineReader(std::string history_file)
        : file_(std::move(history_file)), terminal_(::isatty(STDIN_FILENO)) {
        if (!terminal_) return;
        std::setlocale(LC_CTYPE, ""); // libedit edits characters, not bytes
        rl_initialize();
        using_history();
        stifle_history(1000);
        read_history(file_.c_str());
    }
    ~LineReader() {
        if (!terminal_) return;
        // What was asked may be private: readable by its owner only.
        const auto mask = ::umask(0077);
        write_history(file_.c_str());
        ::umask(mask);
    }
    LineReader(const LineReader&) = delete;
    LineReader& operator=(const LineReader&) = delete;

    /// False at the end (Ctrl-D). Ctrl-C gives an empty line.
    bool read(std::string& line) {
        line.clear();
        if (!terminal_) return static_cast<bool>(std::getline(std::cin, line));
        interrupted = false;
        const std::unique_ptr<char, decltype(&std::free)> typed(readline("> "), &std::free);
        if (!typed) {
            std::printf("\n");
            return interrupted;
        }
        line = typed.get();
        if (!line.empty()) add_history(line.c_str());
        return true;
    }
    [[nodiscard]] bool terminal() const { return terminal_; }

private:
    std::string file_;
    bool terminal_;
};

/// One question of a chat. What fails or is stopped does not end the chat.
void ask_in_chat(const RunArguments& arguments, Session& session, std::vector<Message>& messages,
                 const std::string& line, const std::string& key) {
    messages.push_back({"user", line});
    interrupted = false;
    try {
        const Answer answer =
            session.client->ask(session.model, messages, arguments.ask, key, print_text, &interrupted);
        std::printf(answer.interrupted ? " [stopped]\n" : "\n");
        messages.push_back({"assistant", answer.text});
    } catch (const std::exception& error) {
        std::printf("\n");
        spdlog::error("{}", error.what());
        messages.pop_back();
    }
}

int chat(const RunArguments& arguments) {
    Session session = connect(arguments);
    const InterruptGuard guard;
    LineReader reader((platform::data_home() / "chat-history").string());
    if (reader.terminal()) {
        std::fprintf(stderr, "%s, %s. Ctrl-C stops an answer, Ctrl-D ends.\n", session.model.c_str(),
                     session.is_protected ? "inside the secure world" : "without protection");
    }
    std::vector<Message> messages;
    const std::string key = conversation_key();
    std::string line;
    while (reader.read(line)) {
        if (line.find_first_not_of(" \t") == std::string::npos) continue;
        if (arguments.ask.raw) messages.clear(); // a completion has no conversation
        ask_in_chat(arguments, session, messages, line, key);
    }
    return 0;
}

void add_options(CLI::App& command, const std::shared_ptr<RunArguments>& arguments) {
    AskOptions& ask = arguments->ask;
    command.add_option("model", arguments->model, "name of a sealed model (with --native also a .gguf file)")
        ->required();
    command.add_option("--temp", ask.temperature, "temperature; 0: always the likeliest token")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 100.0));
    command.add_option("--top-p", ask.top_p, "choose among the likeliest tokens that make up this share")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0));
    command.add_option("--top-k", ask.top_k, "choose among this many tokens; 0: all")->capture_default_str();
    command.add_option("--min-p", ask.min_p, "leave out tokens less likely than this times the likeliest")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0));
    command.add_option("--repeat-penalty", ask.repeat_penalty, "make what was just said less likely; 1: off")
        ->capture_default_str()
        ->check(CLI::Range(0.1, 10.0));
    command
        .add_option("--presence-penalty", ask.presence_penalty, "make what the answer has said less likely")
        ->capture_default_str()
        ->check(CLI::Range(-2.0, 2.0));
    command.add_option("--frequency-penalty", ask.frequency_penalty, "the same for each time it was said")
        ->capture_default_str()
        ->check(CLI::Range(-2.0, 2.0));
    command
        .add_option("--logit-bias", ask.logit_bias,
                    "TOKEN-ID=BIAS: make a token more (to 100) or less (to -100) likely")
        ->allow_extra_args(false) // one each time, or it would take the prompt, too
        ->check(CLI::Validator(
            [](const std::string& text) {
                return text.find('=') == std::string::npos ? "must be TOKEN-ID=BIAS" : "";
            },
            ""));
    command
        .add_option("--stop", ask.stop,
                    "end the answer where this text would come; may be given several times")
        ->allow_extra_args(false);
    auto* seed =
        command.add_option("--seed", arguments->seed, "makes the choice repeatable (default: random)");
    command.add_option("-n,--tokens", ask.max_tokens,
                       "at most this many tokens (default: what the context holds)");
    command.add_option("--system", ask.system, "instructions that precede the conversation");
    command.add_flag("--raw", ask.raw, "continue the text as it is, without the model's chat template");
    command.add_flag("--no-think", ask.no_thinking, "ask a model that thinks aloud to answer at once");
    command.add_option("--npu", ask.npu, "on, off, auto (default: auto, the device's own choice)")
        ->check(CLI::IsMember({"on", "off", "auto"}));
    command.add_flag("--native", arguments->native, "run on this machine, without protection");
    command.add_option("--context", arguments->context, "tokens of context (with --native)")
        ->needs("--native");
    command.parse_complete_callback([arguments, seed] {
        if (seed->count() > 0) arguments->ask.seed = arguments->seed;
    });
}

[[noreturn]] void leave(int code) { throw Exit{code}; }

} // namespace

void register_ask(CLI::App& app) {
    auto arguments = std::make_shared<RunArguments>();
    CLI::App* run = app.add_subcommand("run", "ask a sealed model; without a prompt: chat");
    add_options(*run, arguments);
    auto* prompt = run->add_option("prompt", arguments->prompt, "the question");
    run->callback([arguments, prompt] {
        if (prompt->count() > 0 && arguments->prompt.empty()) throw std::runtime_error("the prompt is empty");
        if (const int code = prompt->count() > 0 ? run_once(*arguments) : chat(*arguments); code != 0)
            leave(code);
    });

    auto chat_arguments = std::make_shared<RunArguments>();
    CLI::App* talk = app.add_subcommand("chat", "chat with a sealed model");
    add_options(*talk, chat_arguments);
    talk->callback([chat_arguments] { chat(*chat_arguments); });
}

void register_client(CLI::App& app) {
    register_seal(app);
    register_ask(app);
    register_demo(app);
    register_agent(app);
    register_top(app);
    register_sessions(app);
    register_device_bench(app);
}

} // namespace flex::cli
