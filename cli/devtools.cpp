#include "cli/devtools.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/gguf.h"
#include "engine/kernels/kernels.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/thread_pool.h"
#include "tokenizer/tokenizer.h"

namespace flex::cli {

namespace {

using nlohmann::json;

[[noreturn]] void give_up(const std::string& message) {
    std::cerr << "flexserve: " << message << '\n';
    throw CLI::RuntimeError(1);
}

/// The value, or one line on stderr and exit code 1.
template <class T> T value_or_exit(Result<T> result, const std::string& context) {
    if (!result.ok()) give_up(context + ": " + result.error().message);
    return std::move(result).value();
}

/// A file in memory, read-only.
class MappedFile {
public:
    explicit MappedFile(const std::string& path) {
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) give_up(path + ": " + std::strerror(errno));
        struct stat about {};
        if (::fstat(file, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0) {
            size_ = static_cast<std::size_t>(about.st_size);
            data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        }
        ::close(file);
        if (data_ == MAP_FAILED) give_up(path + ": cannot be mapped (empty, or not a regular file)");
    }
    ~MappedFile() { ::munmap(data_, size_); }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    [[nodiscard]] std::span<const std::byte> bytes() const {
        return {static_cast<const std::byte*>(data_), size_};
    }

private:
    void* data_ = MAP_FAILED;
    std::size_t size_ = 0;
};

struct Options {
    std::string model;
    bool as_json = false;
    // tokenize
    std::string file;
    bool specials = false;
    // detokenize, logits, generate
    std::vector<TokenId> ids;
    std::vector<std::uint32_t> positions;
    // generate
    std::uint32_t count = 32;
    bool stop_at_end = false;
    engine::SamplerOptions sampling;
    // engine
    unsigned threads = std::max(1u, std::thread::hardware_concurrency());
    std::uint32_t context = 0;
    std::uint32_t batch = 512;
    std::string kernels;
    bool timing = false;
};

std::string read_all(const std::string& path) {
    if (path.empty() || path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
    std::ifstream in(path, std::ios::binary);
    if (!in) give_up(path + ": " + std::strerror(errno));
    return {std::istreambuf_iterator<char>(in), {}};
}

void print_ids(const char* key, const std::vector<TokenId>& ids, bool as_json) {
    if (as_json) {
        std::cout << json{{key, ids}}.dump() << '\n';
        return;
    }
    for (std::size_t i = 0; i < ids.size(); ++i) std::cout << (i == 0 ? "" : " ") << ids[i];
    std::cout << '\n';
}

tokenizer::Tokenizer open_tokenizer(const Options& options) {
    const MappedFile file(options.model);
    const engine::Gguf gguf = value_or_exit(engine::Gguf::parse(file.bytes()), options.model);
    return value_or_exit(tokenizer::Tokenizer::create(gguf), options.model);
}

void tokenize(const Options& options) {
    const tokenizer::Tokenizer tokens = open_tokenizer(options);
    const auto specials = options.specials ? tokenizer::Specials::kParse : tokenizer::Specials::kPlain;
    print_ids("ids", tokens.encode(read_all(options.file), specials), options.as_json);
}

void detokenize(const Options& options) {
    const tokenizer::Tokenizer tokens = open_tokenizer(options);
    tokenizer::Detokenizer text_of(tokens, options.specials);
    std::string text;
    for (const TokenId id : options.ids) {
        if (id >= tokens.size())
            give_up("token " + std::to_string(id) + " is outside the vocabulary of " +
                    std::to_string(tokens.size()));
        text += text_of.push(id);
    }
    text += text_of.finish();
    if (options.as_json) {
        std::cout << json{{"text", text}}.dump() << '\n';
    } else {
        std::cout << text;
    }
}

/// A plain GGUF file ready to compute. Members in the order of their dependence.
struct Engine {
    explicit Engine(const Options& options)
        : file(options.model), gguf(value_or_exit(engine::Gguf::parse(file.bytes()), options.model)),
          model(value_or_exit(engine::Model::from_gguf(gguf, file.bytes()), options.model)),
          pool(options.threads) {
        engine::SessionOptions session_options;
        session_options.context = options.context;
        session_options.batch = options.batch;
        session_options.kernels = engine::select_kernels(options.kernels);
        if (session_options.kernels == nullptr)
            give_up("this machine has no kernels named '" + options.kernels + "'");
        session = value_or_exit(engine::Session::create(model, pool, session_options), options.model);
        if (options.timing)
            std::cerr << "kernels " << session_options.kernels->name << ", threads " << pool.threads()
                      << '\n';
    }
    void print_timing() const {
        const engine::Timings& t = session->timings();
        const auto rate = [](std::uint64_t tokens, std::uint64_t ns) {
            return ns == 0 ? 0.0 : 1e9 * static_cast<double>(tokens) / static_cast<double>(ns);
        };
        std::fprintf(
            stderr,
            "prefill %llu tokens, %.1f tokens/s; decode %llu tokens, %.1f tokens/s; attention %.1f ms\n",
            static_cast<unsigned long long>(t.prefill_tokens), rate(t.prefill_tokens, t.prefill_ns),
            static_cast<unsigned long long>(t.decode_tokens), rate(t.decode_tokens, t.decode_ns),
            static_cast<double>(t.attention_ns) / 1e6);
    }

    MappedFile file;
    engine::Gguf gguf;
    engine::Model model;
    engine::ThreadPool pool;
    std::unique_ptr<engine::Session> session;
};

/// Nine significant digits identify an f32; more would only be the double's.
double shown(float value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", static_cast<double>(value));
    return std::strtod(text, nullptr);
}

void logits(const Options& options) {
    Engine engine(options);
    std::vector<std::uint32_t> rows = options.positions;
    if (rows.empty()) rows.push_back(static_cast<std::uint32_t>(options.ids.size() - 1));
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    const std::vector<float> all = value_or_exit(engine.session->logits(options.ids, rows), options.model);
    const std::size_t vocabulary = engine.model.shape().vocabulary;
    json out = json::array();
    for (std::size_t i = 0; i < rows.size(); ++i) {
        json values = json::array();
        for (std::size_t v = 0; v < vocabulary; ++v) values.push_back(shown(all[i * vocabulary + v]));
        out.push_back({{"pos", rows[i]}, {"values", std::move(values)}});
    }
    if (options.timing) engine.print_timing();
    if (options.as_json) {
        std::cout << json{{"logits", std::move(out)}}.dump() << '\n';
        return;
    }
    for (const json& row : out) {
        std::cout << row["pos"] << ':';
        for (const json& value : row["values"]) std::cout << ' ' << value;
        std::cout << '\n';
    }
}

void generate(const Options& options) {
    const Status sane = engine::check(options.sampling);
    if (!sane.ok()) give_up(sane.error().message);
    Engine engine(options);
    std::optional<tokenizer::Tokenizer> tokens;
    if (options.stop_at_end) tokens = value_or_exit(tokenizer::Tokenizer::create(engine.gguf), options.model);
    engine::Sampler sampler(options.sampling);
    std::vector<TokenId> out;
    auto next = engine.session->prefill(options.ids);
    while (out.size() < options.count) {
        const TokenId token =
            value_or_exit(sampler.sample(value_or_exit(std::move(next), options.model)), options.model);
        if (tokens && tokens->ends_generation(token)) break;
        out.push_back(token);
        if (out.size() == options.count) break;
        next = engine.session->decode(token);
    }
    if (options.timing) engine.print_timing();
    print_ids(options.sampling.temperature == 0.0F ? "greedy" : "ids", out, options.as_json);
}

/// Perplexity as llama.cpp's `perplexity` defines it: the text in chunks of `context` tokens, each computed
/// from an empty context with BOS as its first token where the model wants one; in the second half of each
/// the probability of the next token counts.
void perplexity(const Options& options) {
    Engine engine(options);
    const auto tokens = value_or_exit(tokenizer::Tokenizer::create(engine.gguf), options.model);
    const std::uint32_t size = engine.session->context();
    const std::vector<TokenId> text = tokens.encode_prompt(read_all(options.file));
    const std::size_t chunks = text.size() / size;
    if (size < 8 || chunks == 0)
        give_up("the text has " + std::to_string(text.size()) + " tokens; one chunk needs " +
                std::to_string(size) + " (--context, at least 8)");
    std::vector<std::uint32_t> rows(size - 1 - size / 2);
    std::iota(rows.begin(), rows.end(), size / 2);
    const std::size_t vocabulary = engine.model.shape().vocabulary;
    double sum = 0, squares = 0;
    std::vector<double> running;
    std::size_t count = 0;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
        std::vector<TokenId> ids(text.begin() + static_cast<std::ptrdiff_t>(chunk * size),
                                 text.begin() + static_cast<std::ptrdiff_t>((chunk + 1) * size));
        const std::vector<TokenId> next(ids.begin() + size / 2 + 1, ids.end());
        if (tokens.adds_bos() && tokens.bos()) ids.front() = *tokens.bos();
        engine.session->rewind(0);
        const auto logits = value_or_exit(engine.session->logits(ids, rows), options.model);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const std::span row = std::span(logits).subspan(i * vocabulary, vocabulary);
            const double loss = -static_cast<double>(engine::logprobs_of(row, next[i], 0).token.logprob);
            sum += loss;
            squares += loss * loss;
            ++count;
        }
        running.push_back(std::exp(sum / static_cast<double>(count)));
        if (options.timing) std::fprintf(stderr, "[%zu/%zu] %.4f\n", chunk + 1, chunks, running.back());
    }
    const double mean = sum / static_cast<double>(count);
    const double deviation = std::sqrt(std::max(0.0, squares / static_cast<double>(count) - mean * mean) /
                                       static_cast<double>(std::max<std::size_t>(1, count - 1)));
    if (options.timing) engine.print_timing();
    if (options.as_json) {
        std::cout << json{{"perplexity", std::exp(mean)},
                          {"error", deviation * std::exp(mean)},
                          {"running", running}, // after each chunk
                          {"chunks", chunks},
                          {"context", size},
                          {"tokens", count}}
                         .dump()
                  << '\n';
    } else {
        std::printf("perplexity %.4f +/- %.4f (%zu tokens in %zu chunks of %u)\n", std::exp(mean),
                    deviation * std::exp(mean), count, chunks, size);
    }
}

/// CLI11 keeps the options by reference: they live as long as the callback does.
using Shared = std::shared_ptr<Options>;

CLI::App* add_command(CLI::App& app, const char* name, const char* description, const Shared& options,
                      void (*run)(const Options&)) {
    CLI::App* command = app.add_subcommand(name, description);
    command->add_option("model", options->model, "a GGUF file")->required();
    command->add_flag("--json", options->as_json, "print JSON");
    command->callback([options, run] { run(*options); });
    return command;
}

void add_ids(CLI::App* command, const Shared& options) {
    command->add_option("--ids", options->ids, "token ids, separated by commas")->required()->delimiter(',');
}

void add_engine(CLI::App* command, const Shared& options) {
    command->add_option("-t,--threads", options->threads, "threads that compute")->check(CLI::Range(1, 64));
    command->add_option("--context", options->context, "tokens the KV cache holds");
    command->add_option("--batch", options->batch, "prompt tokens computed at a time");
    std::string names;
    for (const engine::Kernels* table : engine::available_kernels())
        names += (names.empty() ? "" : ", ") + std::string(table->name);
    command->add_option("--kernels", options->kernels, "kernel table; here " + names + " (default: the first)");
    command->add_flag("--timing", options->timing, "print speeds on stderr");
}

} // namespace

void register_devtools(CLI::App& app) {
    const auto fresh = [] { return std::make_shared<Options>(); };

    Shared options = fresh();
    CLI::App* command = add_command(app, "tokenize", "Turn text into token ids", options, tokenize);
    command->add_option("--file", options->file, "read the text from this file (default: standard input)");
    command->add_flag("--special", options->specials, "let the text name special tokens");

    options = fresh();
    command = add_command(app, "detokenize", "Turn token ids into text", options, detokenize);
    add_ids(command, options);
    command->add_flag("--special", options->specials, "show special tokens by their names");

    options = fresh();
    command = add_command(app, "logits", "Compute logits after tokens of a prompt", options, logits);
    add_ids(command, options);
    command
        ->add_option("--positions", options->positions,
                     "positions in the prompt, separated by commas (default: the last)")
        ->delimiter(',');
    add_engine(command, options);

    options = fresh();
    options->context = 512;
    command =
        add_command(app, "ppl", "Measure how well a model predicts a text (perplexity)", options, perplexity);
    command->add_option("--file", options->file, "the text (default: standard input)");
    add_engine(command, options);

    options = fresh();
    command = add_command(app, "generate", "Continue a prompt of token ids", options, generate);
    add_ids(command, options);
    command->add_option("-n", options->count, "tokens to generate")->check(CLI::Range(1, 1 << 20));
    command->add_option("--temp", options->sampling.temperature,
                        "temperature; 0 takes the likeliest token (default)");
    command->add_option("--top-k", options->sampling.top_k, "choose among this many (0: all)");
    command->add_option("--top-p", options->sampling.top_p,
                        "choose among the likeliest with this total probability");
    command->add_option("--min-p", options->sampling.min_p,
                        "leave out tokens less likely than this times the likeliest");
    command->add_option("--seed", options->sampling.seed, "seed of the choice");
    command->add_flag("--stop", options->stop_at_end, "stop at an end-of-text or end-of-turn token");
    add_engine(command, options);
}

} // namespace flex::cli
