// What the device's /metrics tells.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flex::cli {

/// One line of Prometheus text.
struct Sample {
    std::string name;
    std::map<std::string, std::string> labels;
    double value = 0;
};

class Metrics {
public:
    /// Lines that make no sense are left out.
    static Metrics parse(std::string_view text);

    /// Of the first sample with that name and those labels (others may be there, too); 0 when there is none.
    [[nodiscard]] double value(std::string_view name,
                               const std::map<std::string, std::string>& labels = {}) const;
    /// The values that a label takes among the samples of that name, in their order.
    [[nodiscard]] std::vector<std::string> values_of(std::string_view name, std::string_view label) const;
    [[nodiscard]] const std::vector<Sample>& samples() const { return samples_; }

private:
    std::vector<Sample> samples_;
};

} // namespace flex::cli
