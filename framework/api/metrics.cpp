#include "api/metrics.h"

#include <charconv>

namespace flex::api {
namespace {

std::string number(double value) {
    std::array<char, 32> text{};
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() ? std::string(text.data(), end) : "0";
}

/// Escaped as the format wants it, though no model may be called that.
std::string quoted(std::string_view value) {
    std::string out = "\"";
    for (const char c : value) {
        if (c == '\\' || c == '"') out += '\\';
        out += c == '\n' ? std::string("\\n") : std::string(1, c);
    }
    return out + "\"";
}

std::string label(std::string_view name, std::string_view value) {
    return std::string(name) + "=" + quoted(value);
}

class Page {
public:
    /// Begins a metric; its samples follow.
    void metric(const char* name, const char* type, const char* help) {
        name_ = std::string("flexserve_") + name;
        text_ += "# HELP " + name_ + " " + help + "\n# TYPE " + name_ + " " + type + "\n";
    }
    void sample(double value, const std::string& labels = {}, const char* suffix = "") {
        text_ += name_ + suffix + (labels.empty() ? "" : "{" + labels + "}") + " " + number(value) + "\n";
    }
    void one(const char* name, const char* type, const char* help, double value) {
        metric(name, type, help);
        sample(value);
    }
    std::string take() { return std::move(text_); }

private:
    std::string name_, text_;
};

double as_number(std::uint64_t value) { return static_cast<double>(value); }

void memory(Page& page, const ServerStatus& status) {
    static constexpr const char* kStates[] = {"reserved", "normal",  "shared",  "claimed",
                                              "flex",     "adopted", "released"};
    page.metric("frames", "gauge",
                "Frames of 4 KiB by state, by the monitor's table; 0 where nothing is protected.");
    for (std::size_t i = 0; i < std::size(kStates); ++i)
        page.sample(as_number(status.memory.frames[i]), label("state", kStates[i]));
    std::uint64_t weights = 0, kv = 0, kv_free = 0;
    for (const pipeline::ModelStatus& m : status.models) {
        weights += m.bytes_loaded;
        kv += m.conversations.blocks_in_use * m.kv_block_bytes;
        kv_free += m.conversations.blocks_free * m.kv_block_bytes;
    }
    const std::uint64_t held = status.memory.mapped_bytes, known = weights + kv + kv_free;
    page.metric("memory_bytes", "gauge",
                "Flex-Mem by what lies in it; other: code, heap, scratch, what is on its way.");
    page.sample(as_number(weights), label("class", "weights"));
    page.sample(as_number(kv), label("class", "kv"));
    page.sample(as_number(kv_free), label("class", "kv_free"));
    page.sample(as_number(held - std::min(held, known)), label("class", "other"));
    page.sample(as_number(status.memory.pool_bytes), label("class", "pool"));
}

struct ModelGauge {
    const char* name;
    const char* help;
    double (*value)(const pipeline::ModelStatus&);
};

void models(Page& page, const ServerStatus& status) {
    static constexpr ModelGauge kGauges[] = {
        {"model_bytes", "Weights and metadata of an open model.",
         [](const auto& m) { return as_number(m.bytes); }},
        {"model_resident_bytes", "Of these in memory.",
         [](const auto& m) { return as_number(m.bytes_loaded); }},
        {"model_stages", "Stages: the embedding, each layer, the head.",
         [](const auto& m) { return double(m.stages); }},
        {"model_resident_stages", "Of these in memory, the first ones.",
         [](const auto& m) { return double(m.stages_loaded); }},
        {"model_in_use", "1 while a request uses it.", [](const auto& m) { return double(m.in_use); }},
        {"model_hot", "1 when the memory policy keeps it.", [](const auto& m) { return double(m.hot); }},
        {"kv_blocks_limit", "Blocks of KV cache the model may have.",
         [](const auto& m) { return double(m.conversations.blocks_limit); }},
    };
    for (const ModelGauge& gauge : kGauges) {
        page.metric(gauge.name, "gauge", gauge.help);
        for (const auto& m : status.models) page.sample(gauge.value(m), label("model", m.name));
    }
    const auto by_state = [&](const char* key, const auto& values) {
        for (const auto& m : status.models) {
            for (const auto& [state, member] : values)
                page.sample(as_number(m.conversations.*member),
                            label("model", m.name) + "," + label(key, state));
        }
    };
    using Status = pipeline::ConversationsStatus;
    using Member = std::pair<const char*, std::size_t Status::*>;
    page.metric("sessions", "gauge",
                "Conversations in the KV cache; prefix: beginnings kept for others of their caller.");
    by_state("state",
             std::array<Member, 3>{
                 {{"running", &Status::running}, {"idle", &Status::idle}, {"prefix", &Status::prefixes}}});
    page.metric("kv_blocks", "gauge", "Blocks of KV cache; shared ones are in use, too.");
    by_state("state", std::array<Member, 3>{{{"in_use", &Status::blocks_in_use},
                                             {"free", &Status::blocks_free},
                                             {"shared", &Status::blocks_shared}}});
    using Counter = std::pair<const char*, std::uint64_t Status::*>;
    const Counter counters[] = {{"prefix_hits_total", &Status::hits},
                                {"prefix_misses_total", &Status::misses},
                                {"prefix_tokens_total", &Status::shared_tokens},
                                {"kv_evictions_total", &Status::evicted}};
    for (const auto& [name, member] : counters) {
        page.metric(name, "counter", "Since the model was opened; of requests whose caller is known.");
        for (const auto& m : status.models)
            page.sample(as_number(m.conversations.*member), label("model", m.name));
    }
}

void histogram(Page& page, const std::string& model, const Histogram& times) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < times.counts.size(); ++i) {
        sum += times.counts[i];
        const std::string bound = i < Histogram::kBounds.size() ? number(Histogram::kBounds[i]) : "+Inf";
        page.sample(as_number(sum), label("model", model) + "," + label("le", bound), "_bucket");
    }
    page.sample(times.sum, label("model", model), "_sum");
    page.sample(as_number(sum), label("model", model), "_count");
}

void requests(Page& page, const ServerStatus& status, const std::map<std::string, ModelCounters>& models) {
    page.one("requests_running", "gauge", "Requests that are computed.", as_number(status.generator.running));
    page.one("requests_waiting", "gauge", "Requests that wait for a place.",
             as_number(status.generator.waiting));
    page.metric("requests_total", "counter", "Requests that have ended.");
    for (const auto& [name, m] : models) {
        page.sample(as_number(m.done), label("model", name) + "," + label("result", "done"));
        page.sample(as_number(m.failed), label("model", name) + "," + label("result", "failed"));
        page.sample(as_number(m.cancelled), label("model", name) + "," + label("result", "cancelled"));
    }
    page.metric("tokens_total", "counter", "Tokens; cached: of prompts, not computed again.");
    for (const auto& [name, m] : models) {
        page.sample(as_number(m.prompt_tokens), label("model", name) + "," + label("kind", "prompt"));
        page.sample(as_number(m.cached_tokens), label("model", name) + "," + label("kind", "cached"));
        page.sample(as_number(m.answer_tokens), label("model", name) + "," + label("kind", "answer"));
    }
    page.metric("first_token_seconds", "histogram", "From the arrival of a request to its first token.");
    for (const auto& [name, m] : models) histogram(page, name, m.first_token);
}

void workflows(Page& page, const FlowCounters& flows) {
    page.one("workflows_running", "gauge", "Workflows under way.", as_number(flows.running));
    page.metric("workflows_total", "counter", "Workflows that have ended.");
    page.sample(as_number(flows.done), label("result", "done"));
    page.sample(as_number(flows.failed), label("result", "failed"));
    page.sample(as_number(flows.cancelled), label("result", "cancelled"));
    page.one("workflow_nodes_total", "counter", "Nodes of workflows that were answered.",
             as_number(flows.nodes));
}

void cache(Page& page, const pipeline::CacheCounters& c) {
    page.metric("weights_found_total", "counter", "Requests by how much of their model was in memory.");
    page.sample(as_number(c.hits), label("part", "all"));
    page.sample(as_number(c.partial_hits), label("part", "some"));
    page.sample(as_number(c.misses), label("part", "none"));
    page.one("stages_streamed_total", "counter", "Stages brought into memory.", as_number(c.stages_streamed));
    page.one("bytes_streamed_total", "counter", "Bytes of these.", as_number(c.bytes_streamed));
    page.one("prefetches_total", "counter", "Times that weights were asked for before a request did.",
             as_number(c.prefetches));
    page.one("reclaims_total", "counter", "Times that the normal world wanted memory back.",
             as_number(c.asks));
    page.one("reclaim_asked_bytes_total", "counter", "How much it wanted.", as_number(c.bytes_asked));
    page.one("given_back_bytes_total", "counter",
             "Weights and KV cache that went: to it, or for other models.", as_number(c.bytes_given_back));
}

void npu_use(Page& page, const npu::Counters& npu) {
    constexpr double kSecond = 1e9;
    page.one("npu_jobs_total", "counter", "Jobs of the NPU that ended well.", as_number(npu.jobs));
    page.one("npu_failures_total", "counter", "Jobs that did not.", as_number(npu.failures));
    page.one("npu_switches_total", "counter", "Times it was taken from the normal world.",
             as_number(npu.switches));
    page.one("npu_busy_seconds_total", "counter", "That jobs took, by its own count.",
             as_number(npu.busy_ns) / kSecond);
}

void stored_conversations(Page& page, const memory::KvStoreStatus& s) {
    page.one("stored_sessions", "gauge", "Conversations whose KV cache is in the store.",
             as_number(s.sessions));
    page.one("stored_kv_bytes", "gauge", "KV cache in the store.", as_number(s.bytes));
    page.one("kv_blocks_saved_total", "counter", "Blocks written to the store.", as_number(s.saved_blocks));
    page.one("kv_blocks_restored_total", "counter", "Blocks that came back as they were written.",
             as_number(s.restored_blocks));
    page.metric("kv_blocks_recomputed_total", "counter", "Blocks that did not, and were computed again.");
    for (const memory::KvLoss loss : memory::kKvLosses)
        page.sample(as_number(s.recomputed[static_cast<std::size_t>(loss)]),
                    label("cause", memory::name_of(loss)));
    page.one("kv_save_failures_total", "counter", "Times that a conversation could not be written further.",
             as_number(s.save_failures));
    page.one("stored_sessions_evicted_total", "counter",
             "Conversations that went because the store was full.", as_number(s.evicted));
    page.one("stored_sessions_deleted_total", "counter", "Conversations that their owners deleted.",
             as_number(s.deleted));
    page.one("kv_indexes_refused_total", "counter",
             "At the start: the store's index was lost, changed, or older than a deletion.",
             as_number(s.indexes_refused));
}

} // namespace

std::string format_metrics(const ServerStatus& status, const std::map<std::string, ModelCounters>& counters,
                           const FlowCounters& flows) {
    Page page;
    page.one("uptime_seconds", "gauge", "Since the server started.", status.uptime_seconds);
    page.one("protected", "gauge", "1 where no other software can reach what the framework holds.",
             double(status.is_protected));
    memory(page, status);
    models(page, status);
    requests(page, status, counters);
    workflows(page, flows);
    cache(page, status.cache);
    if (status.npu) npu_use(page, *status.npu);
    if (status.stored) stored_conversations(page, *status.stored);
    return page.take();
}

} // namespace flex::api
