#include "cli/client_top_view.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "cli/client.h"

namespace flex::cli {
namespace {

constexpr double kMiB = 1048576, kFrame = 4096;

__attribute__((format(printf, 1, 2))) std::string line(const char* format, ...) {
    std::array<char, 512> text{};
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text.data(), text.size(), format, arguments);
    va_end(arguments);
    return text.data();
}

std::string memory_lines(const Metrics& m, int width) {
    const auto frames = [&](const char* state) {
        return m.value("flexserve_frames", {{"state", state}}) * kFrame / kMiB;
    };
    const auto bytes = [&](const char* of) {
        return m.value("flexserve_memory_bytes", {{"class", of}}) / kMiB;
    };
    std::string out;
    const double taken = frames("flex") + frames("adopted") + frames("released") + frames("claimed");
    const double all = taken + frames("normal") + frames("shared");
    if (all > 0) {
        out += line("memory   %s %.1f of %.0f MiB protected\n", bar(taken, all, width).c_str(), taken, all);
        out += line(
            "frames   normal %.1f  shared %.1f  claimed %.1f  flex %.1f  adopted %.1f  released %.1f  MiB\n",
            frames("normal"), frames("shared"), frames("claimed"), frames("flex"), frames("adopted"),
            frames("released"));
    } else {
        out += "memory   nothing is protected here\n";
    }
    return out + line("class    weights %.1f  kv %.1f  kv free %.1f  other %.1f  pool %.1f  MiB\n",
                      bytes("weights"), bytes("kv"), bytes("kv_free"), bytes("other"), bytes("pool"));
}

std::string model_lines(const Metrics& m, int width) {
    std::string out;
    for (const std::string& name : m.values_of("flexserve_model_stages", "model")) {
        const auto of = [&](const char* metric) {
            return m.value(std::string("flexserve_") + metric, {{"model", name}});
        };
        const auto sessions = [&](const char* state) {
            return m.value("flexserve_sessions", {{"model", name}, {"state", state}});
        };
        out += line("  %-18s %s %3.0f/%-3.0f %8.1f MiB %s%s\n", printable(name).substr(0, 18).c_str(),
                    bar(of("model_resident_stages"), of("model_stages"), width).c_str(),
                    of("model_resident_stages"), of("model_stages"), of("model_resident_bytes") / kMiB,
                    of("model_hot") > 0 ? "hot " : "", of("model_in_use") > 0 ? "in use" : "");
        out += line("  %-18s %.0f running, %.0f idle, %.0f prefixes; hits %.0f of %.0f; kv "
                    "%.0f of %.0f blocks, %.0f shared\n",
                    "", sessions("running"), sessions("idle"), sessions("prefix"), of("prefix_hits_total"),
                    of("prefix_hits_total") + of("prefix_misses_total"),
                    m.value("flexserve_kv_blocks", {{"model", name}, {"state", "in_use"}}),
                    of("kv_blocks_limit"),
                    m.value("flexserve_kv_blocks", {{"model", name}, {"state", "shared"}}));
    }
    return out.empty() ? "  none in memory\n" : out;
}

double total(const Metrics& m, std::string_view name, const char* label, const char* value) {
    double sum = 0;
    for (const Sample& sample : m.samples()) {
        const auto found = sample.labels.find(label);
        if (sample.name == name &&
            (value == nullptr || (found != sample.labels.end() && found->second == value)))
            sum += sample.value;
    }
    return sum;
}

std::string request_lines(const Metrics& m) {
    const auto ended = [&](const char* result) {
        return total(m, "flexserve_requests_total", "result", result);
    };
    const auto tokens = [&](const char* kind) { return total(m, "flexserve_tokens_total", "kind", kind); };
    const double count = total(m, "flexserve_first_token_seconds_count", "", nullptr);
    const double sum = total(m, "flexserve_first_token_seconds_sum", "", nullptr);
    std::string out = line("requests %.0f running, %.0f waiting; %.0f done, %.0f failed, %.0f cancelled\n",
                           m.value("flexserve_requests_running"), m.value("flexserve_requests_waiting"),
                           ended("done"), ended("failed"), ended("cancelled"));
    out += line("tokens   %.0f in (%.0f cached), %.0f out; first token after %.2f s on average\n",
                tokens("prompt"), tokens("cached"), tokens("answer"), count > 0 ? sum / count : 0);
    out += line("flows    %.0f running; %.0f done, %.0f failed, %.0f cancelled\n",
                m.value("flexserve_workflows_running"),
                m.value("flexserve_workflows_total", {{"result", "done"}}),
                m.value("flexserve_workflows_total", {{"result", "failed"}}),
                m.value("flexserve_workflows_total", {{"result", "cancelled"}}));
    return out + line("reclaim  asked %.0f times, %.1f MiB; given back %.1f MiB; streamed in %.1f MiB\n",
                      m.value("flexserve_reclaims_total"),
                      m.value("flexserve_reclaim_asked_bytes_total") / kMiB,
                      m.value("flexserve_given_back_bytes_total") / kMiB,
                      m.value("flexserve_bytes_streamed_total") / kMiB);
}

std::string store_lines(const Metrics& m) {
    if (m.values_of("flexserve_kv_blocks_recomputed_total", "cause").empty())
        return {}; // nothing is stored there
    const auto again = [&](const char* cause) {
        return m.value("flexserve_kv_blocks_recomputed_total", {{"cause", cause}});
    };
    return line(
        "stored   %.0f conversations, %.1f MiB; blocks: %.0f written, %.0f read, %.0f refused, %.0f lost, "
        "%.0f failed, %.0f slow\n",
        m.value("flexserve_stored_sessions"), m.value("flexserve_stored_kv_bytes") / kMiB,
        m.value("flexserve_kv_blocks_saved_total"), m.value("flexserve_kv_blocks_restored_total"),
        again("refused"), again("lost"), again("failed"), again("slow"));
}

std::string stat(const TopSnapshot& snapshot, const char* name) {
    const auto found = snapshot.stats.find(name);
    return found == snapshot.stats.end() ? "-" : printable(found->second);
}

std::string device_lines(const TopSnapshot& s) {
    if (!s.has_stats) return "blocked  (no monitor here)\n";
    return line("blocked  reads %s, writes %s, fetches %s, DMA %s, calls %s, registers %s, lists %s\n",
                stat(s, "monitor/aborts_read").c_str(), stat(s, "monitor/aborts_write").c_str(),
                stat(s, "monitor/aborts_fetch").c_str(), stat(s, "monitor/dma_faults").c_str(),
                stat(s, "monitor/calls_denied").c_str(), stat(s, "monitor/registers_denied").c_str(),
                stat(s, "monitor/lists_refused").c_str()) +
           line("npu      %s, %s jobs by Linux\n", stat(s, "npu/state").c_str(), stat(s, "npu/jobs").c_str());
}

} // namespace

std::map<std::string, std::string> parse_stats(std::string_view text) {
    std::map<std::string, std::string> out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view one = text.substr(0, end);
        if (const std::size_t colon = one.find(':'); colon != std::string_view::npos)
            out[std::string(one.substr(0, colon))] = one.substr(colon + 1);
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

std::string bar(double part, double whole, int width) {
    const double share = whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 0;
    const auto filled = static_cast<std::size_t>(std::lround(share * width));
    return "[" + std::string(filled, '#') + std::string(static_cast<std::size_t>(width) - filled, '.') + "]";
}

std::string render_top(const TopSnapshot& snapshot, int columns) {
    const Metrics& m = snapshot.metrics;
    const int width = std::clamp(columns - 60, 10, 40);
    std::string page = line("flexserve  %s, up %.0f s\n\n",
                            m.value("flexserve_protected") > 0 ? "protected" : "NOT protected",
                            m.value("flexserve_uptime_seconds"));
    page += memory_lines(m, width) + "\nmodels   (stages in memory)\n" + model_lines(m, width) + "\n" +
            request_lines(m) + store_lines(m) + device_lines(snapshot);
    std::string out;
    for (std::size_t begin = 0;
         begin < page.size();) { // what is too long for the terminal would break the picture
        const std::size_t end = page.find('\n', begin);
        out += page.substr(begin, std::min<std::size_t>(end - begin,
                                                        static_cast<std::size_t>(std::max(columns, 60)))) +
               "\n";
        begin = end + 1;
    }
    return out;
}

} // namespace flex::cli
