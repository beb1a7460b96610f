#include "cli/bench.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/bench_limits.h"
#include "cli/client.h"
#include "cli/output.h"
#include "engine/batch.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/q8_layout.h"
#include "engine/session.h"
#include "engine/thread_pool.h"
#include "launcher/paths.h"
#include "pipeline/loaded_model.h"

namespace flex::cli {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Arguments {
    std::string model, kernels;
    std::vector<std::uint32_t> prompts{128, 512};
    std::uint32_t generate = 64, rounds = 3, batch = 512;
    unsigned threads = std::max(1u, std::thread::hardware_concurrency());
    bool limits = true;
};

template <class T> T need(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message);
    return std::move(result).value();
}

void need(const Status& status) {
    if (!status) throw std::runtime_error(status.error().message);
}

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
    std::ranges::sort(values);
    const std::size_t n = values.size();
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

constexpr auto kKv = engine::KvType::kF16;
constexpr std::uint32_t kTogether = 4; // sequences that decode together
constexpr std::uint32_t kTogetherTokens = 32;

/// One line of the result.
struct Row {
    std::string what;
    std::vector<double> tokens_per_s; ///< by round
    std::vector<double> read_gb_s;    ///< by round: what reading the weights alone reached just before
    double bytes_per_token = 0;       ///< of weights and KV cache that pass by, for decode
    double macs_per_token = 0;        ///< with the weights
};

/// Everything that computes. Members in the order of their dependence.
struct Bench {
    explicit Bench(const Arguments& arguments)
        : port(need(port::make_native_port(native_folder()))), trust(*port), pool(arguments.threads) {
        need(port::provision_native(native_folder(), platform::data_home().string()));
        const bool plain = arguments.model.ends_with(".gguf");
        model = need(pipeline::LoadedModel::open(
            need(plain ? pipeline::open_gguf_source(*port, arguments.model, "bench")
                       : pipeline::open_package_source(*port, trust, arguments.model))));
        const engine::ModelShape& shape = model->model().shape();
        kernels = engine::select_kernels(arguments.kernels);
        if (kernels == nullptr)
            throw std::runtime_error("this machine has no kernels named '" + arguments.kernels + "'");
        engine::SessionOptions options;
        options.context = std::max(1u, arguments.generate + 1);
        for (const std::uint32_t p : arguments.prompts) options.context = std::max(options.context, p + 1);
        if (options.context > shape.context)
            throw std::runtime_error("the model's context is " + std::to_string(shape.context) + " tokens");
        options.batch = arguments.batch;
        options.kv = kKv;
        options.gate = model.get();
        options.kernels = kernels;
        model->start_loading();
        session = need(engine::Session::create(model->model(), pool, options));
        if (arguments.rounds > 0 && arguments.generate > 0) {
            together = need(engine::Batch::create(model->model(), pool,
                                                  {kTogether, kTogetherTokens + 1, model.get(), kernels}));
        }
    }

    /// Ids that do not repeat soon, so that the embedding is not all in cache.
    [[nodiscard]] std::vector<TokenId> prompt(std::uint32_t length) const {
        std::vector<TokenId> ids;
        const std::uint64_t vocabulary = model->model().shape().vocabulary;
        for (std::uint64_t i = 0; i < length; ++i)
            ids.push_back(static_cast<TokenId>(i * 2654435761u % vocabulary));
        return ids;
    }

    std::unique_ptr<port::Port> port;
    package::TrustStore trust;
    engine::ThreadPool pool;
    const engine::Kernels* kernels = nullptr;
    std::unique_ptr<pipeline::LoadedModel> model;
    std::unique_ptr<engine::Session> session;
    std::shared_ptr<engine::Batch> together; ///< for several sequences; null when they are not asked for
};

/// Weights of the layers and of the head: multiplications and bytes for one token.
struct Weights {
    double layer_macs = 0, head_macs = 0, bytes = 0;
};

Weights weigh(const engine::Model& model) {
    Weights w;
    for (const engine::TensorNeed& need : model.tensors()) {
        const double count = static_cast<double>(need.rows * need.columns);
        const bool is_embedding = need.name == "token_embd.weight";
        if (need.rows == 1 || (is_embedding && !model.shape().tied_head)) continue;
        w.bytes += static_cast<double>(need.bytes);
        (is_embedding || need.name == "output.weight" ? w.head_macs : w.layer_macs) += count;
    }
    return w;
}

/// Of the KV cache, for a token of the first `count` on average.
double kv_bytes(const Bench& bench, std::uint32_t count) {
    const auto layout = need(engine::KvLayout::of(bench.model->model().shape(), kKv));
    return static_cast<double>(layout.block_bytes()) / engine::kKvBlockTokens * (count + 1) / 2;
}

/// What a token reads of the weights: every matrix of the layers and the head.
std::vector<std::span<const std::byte>> matrices(const engine::Model& model) {
    std::vector<std::span<const std::byte>> all;
    const auto add = [&all](const engine::Matrix& m) {
        const std::size_t bytes = m.type == engine::TensorType::kQ8_0
                                      ? engine::packed_bytes(m.rows, m.columns)
                                      : std::size_t{m.rows} * m.columns * engine::block_bytes(m.type);
        all.emplace_back(m.data, bytes / 64 * 64);
    };
    for (std::uint32_t i = 0; i < model.shape().layers; ++i) {
        const engine::LayerWeights& l = model.layer(i);
        for (const engine::Matrix* m : {&l.q, &l.k, &l.v, &l.attention_output, &l.gate, &l.up, &l.down})
            add(*m);
    }
    add(model.head());
    return all;
}

double time_prefill(Bench& bench, std::uint32_t length) {
    bench.session->rewind(0);
    const auto ids = bench.prompt(length);
    const auto begin = Clock::now();
    need(bench.session->prefill(ids));
    return length / seconds_since(begin);
}

double time_decode(Bench& bench, std::uint32_t count) {
    bench.session->rewind(0);
    need(bench.session->prefill(bench.prompt(1)));
    const auto ids = bench.prompt(count);
    const auto begin = Clock::now();
    for (const TokenId id : ids) need(bench.session->decode(id));
    return count / seconds_since(begin);
}

/// Tokens per second of several sequences that go one token further with each pass.
double time_batch(Bench& bench, std::uint32_t count) {
    std::vector<std::unique_ptr<engine::Session>> sessions;
    std::vector<engine::BatchPart> parts(kTogether);
    const auto layout = need(engine::KvLayout::of(bench.model->model().shape(), kKv));
    const std::size_t blocks = (count + engine::kKvBlockTokens) / engine::kKvBlockTokens;
    const auto kv = std::make_shared<engine::KvPool>(layout, kTogether * blocks);
    for (engine::BatchPart& part : parts) {
        sessions.push_back(need(engine::Session::create(bench.together, kv, count + 1)));
        part.session = sessions.back().get();
        part.wants_logits = true;
    }
    const auto ids = bench.prompt(count + kTogether);
    const auto begin = Clock::now();
    for (std::uint32_t i = 0; i < count; ++i) {
        for (std::uint32_t s = 0; s < kTogether; ++s) parts[s].tokens = std::span(ids).subspan(i + s, 1);
        need(bench.together->run(parts));
        for (const engine::BatchPart& part : parts) need(part.status);
    }
    return count * kTogether / seconds_since(begin);
}

std::vector<Row> measure(Bench& bench, const Arguments& arguments) {
    const Weights weights = weigh(bench.model->model());
    std::vector<Row> rows;
    for (const std::uint32_t p : arguments.prompts)
        rows.push_back(
            {"prefill " + std::to_string(p), {}, {}, 0, weights.layer_macs + weights.head_macs / p});
    if (arguments.generate > 0)
        rows.push_back({"decode " + std::to_string(arguments.generate),
                        {},
                        {},
                        weights.bytes + kv_bytes(bench, arguments.generate),
                        weights.layer_macs + weights.head_macs});
    if (arguments.generate > 0)
        rows.push_back({"decode batch " + std::to_string(kTogether),
                        {},
                        {},
                        weights.bytes / kTogether + kv_bytes(bench, kTogetherTokens),
                        weights.layer_macs + weights.head_macs});
    const auto memory = matrices(bench.model->model());
    // Rounds outside, rows inside: what else the machine does meanwhile falls on all rows alike.
    for (std::uint32_t round = 0; round < arguments.rounds; ++round) {
        for (std::size_t i = 0; i < arguments.prompts.size(); ++i)
            rows[i].tokens_per_s.push_back(time_prefill(bench, arguments.prompts[i]));
        if (arguments.generate == 0) continue;
        Row &one = rows[rows.size() - 2], &batch = rows.back();
        for (Row* row : {&one, &batch}) {
            if (arguments.limits) row->read_gb_s.push_back(measure_read(bench.pool, memory));
            row->tokens_per_s.push_back(row == &one ? time_decode(bench, arguments.generate)
                                                    : time_batch(bench, kTogetherTokens));
        }
    }
    return rows;
}

double peak_rss_mib() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) / 1024;
}

json as_json(const Row& row, const Int8Limit& limit) {
    const double rate = median(row.tokens_per_s);
    json out{{"what", row.what}, {"tokens_per_s", rate}, {"rounds", row.tokens_per_s}};
    out["gmac_s"] = rate * row.macs_per_token / 1e9;
    if (limit.gmac_s > 0) out["of_int8_peak"] = rate * row.macs_per_token / 1e9 / limit.gmac_s;
    if (row.bytes_per_token > 0) out["gb_s"] = rate * row.bytes_per_token / 1e9;
    if (!row.read_gb_s.empty()) {
        std::vector<double> shares;
        for (std::size_t i = 0; i < row.read_gb_s.size(); ++i)
            shares.push_back(row.tokens_per_s[i] * row.bytes_per_token / 1e9 / row.read_gb_s[i]);
        out["read_limit_gb_s"] = median(row.read_gb_s);
        out["of_read_limit"] = median(shares);
    }
    return out;
}

void print(const json& result) {
    std::printf("kernels %s, %u threads, first token of %u after %.3f s\n",
                result["kernels"].get<std::string>().c_str(), result["threads"].get<unsigned>(),
                result["first_token_prompt"].get<unsigned>(), result["first_token_s"].get<double>());
    if (result.contains("int8_limit_gmac_s"))
        std::printf("peak: int8 %.0f GMAC/s (%s)\n", result["int8_limit_gmac_s"].get<double>(),
                    result["int8_kind"].get<std::string>().c_str());
    for (const json& row : result["rows"]) {
        std::printf("%-14s %9.2f tokens/s  %7.1f GMAC/s", row["what"].get<std::string>().c_str(),
                    row["tokens_per_s"].get<double>(), row["gmac_s"].get<double>());
        if (row.contains("of_int8_peak"))
            std::printf(" (%.0f %% of the peak)", 100 * row["of_int8_peak"].get<double>());
        if (row.contains("gb_s")) std::printf("  %6.2f GB/s", row["gb_s"].get<double>());
        if (row.contains("of_read_limit"))
            std::printf(" (%.0f %% of reading alone, %.1f)", 100 * row["of_read_limit"].get<double>(),
                        row["read_limit_gb_s"].get<double>());
        std::putchar('\n');
    }
    std::printf("peak resident memory %.1f MiB (weights %.1f MiB)\n", result["peak_rss_mib"].get<double>(),
                result["weights_mib"].get<double>());
}

void run(const Arguments& arguments) {
    const auto begin = Clock::now();
    Bench bench(arguments);
    // The first prompt is computed while the weights arrive.
    const std::uint32_t first = arguments.prompts.empty() ? 1 : arguments.prompts.front();
    need(bench.session->prefill(bench.prompt(first)));
    const package::LoadTimes loading = bench.model->take_times();
    const engine::Timings& computing = bench.session->timings();
    const auto seconds = [](std::uint64_t ns) { return static_cast<double>(ns) * 1e-9; };
    json result{{"first_token_s", seconds_since(begin)}, {"first_token_prompt", first}};
    // Allocating, loading and decrypting overlap with computing; waiting is what of them it did not hide.
    result["first_token"] = {{"allocate_s", seconds(loading.allocate_ns)},
                             {"load_s", seconds(loading.load_ns)},
                             {"decrypt_s", seconds(loading.decrypt_ns)},
                             {"compute_s", seconds(computing.prefill_ns - computing.weights_wait_ns)},
                             {"wait_s", seconds(computing.weights_wait_ns)}};
    const std::vector<Row> rows = measure(bench, arguments);
    result["peak_rss_mib"] = peak_rss_mib();
    result["weights_mib"] = static_cast<double>(bench.model->bytes_loaded()) / 1048576;
    Int8Limit limit;
    if (arguments.limits) {
        limit = measure_int8(bench.pool, bench.kernels->name);
        result["int8_limit_gmac_s"] = limit.gmac_s;
        result["int8_kind"] = limit.kind;
    }
    result["kernels"] = bench.kernels->name;
    result["threads"] = bench.pool.threads();
    result["rows"] = json::array();
    for (const Row& row : rows) {
        if (!row.tokens_per_s.empty()) result["rows"].push_back(as_json(row, limit));
    }
    if (json_wanted()) {
        std::cout << result.dump() << '\n';
    } else {
        print(result);
    }
}

} // namespace

void register_bench(CLI::App& app) {
    auto a = std::make_shared<Arguments>();
    CLI::App* command =
        app.add_subcommand("bench", "Measure prefill and decode beside the machine's limits, natively");
    command->add_option("model", a->model, "a .gguf file, or the name of a package sealed with --native")
        ->required();
    command->add_option("-p,--prompt", a->prompts, "prompt lengths, separated by commas (default 128,512)")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20));
    command->add_option("-n,--generate", a->generate, "tokens to decode (default 64; 0: none)");
    command->add_option("-t,--threads", a->threads, "threads that compute")->check(CLI::Range(1, 64));
    command->add_option("-r,--rounds", a->rounds,
                        "rounds; the medians are shown (default 3; 0: first token only)");
    command->add_option("--batch", a->batch, "prompt tokens computed at a time (default 512)");
    command->add_option("--kernels", a->kernels, "kernel table (default: the best)");
    command->add_flag("!--no-limits", a->limits, "do not measure the machine's limits");
    command->callback([a] { run(*a); });
}

} // namespace flex::cli
