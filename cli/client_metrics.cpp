#include "cli/client_metrics.h"

#include <algorithm>
#include <charconv>

namespace flex::cli {
namespace {

/// {name="value",…}; moves `line` past it. False when it is malformed.
bool read_labels(std::string_view& line, std::map<std::string, std::string>& labels) {
    line.remove_prefix(1);
    while (!line.starts_with('}')) {
        const std::size_t equals = line.find("=\"");
        if (equals == std::string_view::npos) return false;
        std::string& value = labels[std::string(line.substr(0, equals))];
        line.remove_prefix(equals + 2);
        while (!line.empty() && line.front() != '"') {
            if (line.front() == '\\' && line.size() > 1) line.remove_prefix(1);
            value += line.front();
            line.remove_prefix(1);
        }
        if (line.empty()) return false;
        line.remove_prefix(1);
        if (line.starts_with(',')) line.remove_prefix(1);
        if (line.empty()) return false;
    }
    line.remove_prefix(1);
    return true;
}

std::optional<Sample> read_sample(std::string_view line) {
    Sample sample;
    const std::size_t end = line.find_first_of("{ ");
    if (end == std::string_view::npos || end == 0 || line.front() == '#') return {};
    sample.name = line.substr(0, end);
    line.remove_prefix(end);
    if (line.front() == '{' && !read_labels(line, sample.labels)) return {};
    if (!line.starts_with(' ')) return {};
    line.remove_prefix(1);
    const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), sample.value);
    if (error != std::errc() || stop == line.data()) return {};
    return sample;
}

} // namespace

Metrics Metrics::parse(std::string_view text) {
    Metrics out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        if (auto sample = read_sample(text.substr(0, end))) out.samples_.push_back(std::move(*sample));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

double Metrics::value(std::string_view name, const std::map<std::string, std::string>& labels) const {
    const auto found = std::ranges::find_if(samples_, [&](const Sample& sample) {
        return sample.name == name && std::ranges::all_of(labels, [&](const auto& label) {
                   const auto have = sample.labels.find(label.first);
                   return have != sample.labels.end() && have->second == label.second;
               });
    });
    return found == samples_.end() ? 0 : found->value;
}

std::vector<std::string> Metrics::values_of(std::string_view name, std::string_view label) const {
    std::vector<std::string> out;
    for (const Sample& sample : samples_) {
        const auto found = sample.labels.find(std::string(label));
        if (sample.name == name && found != sample.labels.end() &&
            std::ranges::find(out, found->second) == out.end())
            out.push_back(found->second);
    }
    return out;
}

} // namespace flex::cli
