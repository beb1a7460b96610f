#include "sim/cache.h"

#include <algorithm>
#include <numeric>

namespace flex::sim {
namespace {

std::vector<std::uint64_t> stage_bytes(const Model& model) {
    std::vector<std::uint64_t> bytes;
    for (const Stage& stage : model.stages) bytes.push_back(stage.bytes);
    return bytes;
}

/// The framework's policy.
class PolicyCache final : public Cache {
public:
    PolicyCache(const Device& device, const memory::PolicyOptions& options)
        : device_(device), options_(options), history_(device.models.size()),
          resident_(device.models.size()) {
        for (const Model& model : device.models) stages_.push_back(stage_bytes(model));
    }

    [[nodiscard]] std::vector<std::uint64_t> missing(std::uint32_t model) const override {
        std::vector<std::uint64_t> bytes = stages_[model];
        std::fill_n(bytes.begin(), resident_[model], 0);
        return bytes;
    }
    void used(const Request& request, double first, double) override {
        double recent = 0;
        for (const auto& history : history_) recent += history.recent(first, options_);
        if (recent > 0)
            repetition_.note(request.model == last_, history_[last_].recent(first, options_) / recent);
        last_ = request.model;
        history_[request.model].note(first, request.prompt, options_);
        resident_[request.model] = static_cast<std::uint32_t>(stages_[request.model].size());
    }
    void limit(double now, std::uint64_t budget, const std::vector<bool>& waiting) override {
        auto models = views(now);
        for (std::size_t i = 0; i < models.size(); ++i) models[i].pinned = waiting[i];
        const std::uint64_t held = memory::resident_bytes({models, {}, 0});
        if (held > budget)
            apply(memory::victims({models, {}, repetition_.excess()}, options_, held - budget));
    }
    void rest(double from, double to, std::uint64_t budget) override {
        const auto models = views(from);
        const memory::Plan plan = memory::balance({models, {}, repetition_.excess()}, options_, budget);
        apply(plan.drops);
        double now = from;
        for (const memory::Step& step : plan.loads) {
            now += static_cast<double>(step.bytes) / device_.bandwidth();
            if (now > to) break; // what is not whole yet does not count
            resident_[step.index] = step.stages;
        }
    }

private:
    [[nodiscard]] std::vector<memory::ModelView> views(double now) const {
        std::vector<memory::ModelView> models;
        for (std::size_t i = 0; i < stages_.size(); ++i) {
            memory::ModelView view;
            view.stages = stages_[i];
            view.resident = resident_[i];
            view.recent = history_[i].recent(now, options_);
            view.count = history_[i].count();
            view.prompts = history_[i].prompts();
            view.last = i == last_;
            view.bandwidth = device_.bandwidth();
            view.prefill_rate = device_.models[i].prefill_rate;
            models.push_back(view);
        }
        return models;
    }
    void apply(std::span<const memory::Step> drops) {
        for (const memory::Step& step : drops) resident_[step.index] = step.stages;
    }

    const Device& device_;
    const memory::PolicyOptions options_;
    std::vector<std::vector<std::uint64_t>> stages_;
    std::vector<memory::UseHistory> history_;
    std::vector<std::uint32_t> resident_;
    memory::Repetition repetition_;
    std::uint32_t last_ = 0;
};

/// Least recently used first: whole models, or the pages of a model from its beginning (each pass touches
/// them in order, so at a request's end the first are the oldest).
class LruCache final : public Cache {
public:
    LruCache(const Device& device, bool pages) : pages_(pages), resident_(device.models.size()) {
        for (const Model& model : device.models) stages_.push_back(stage_bytes(model));
    }

    [[nodiscard]] std::vector<std::uint64_t> missing(std::uint32_t model) const override {
        std::vector<std::uint64_t> bytes = stages_[model];
        std::uint64_t left = total(model) - resident_[model];
        for (std::uint64_t& stage : bytes) left -= stage = std::min(stage, left);
        return bytes;
    }
    void used(const Request& request, double, double) override {
        resident_[request.model] = total(request.model);
        std::erase(order_, request.model);
        order_.push_back(request.model);
    }
    void limit(double, std::uint64_t budget, const std::vector<bool>& waiting) override {
        std::uint64_t held = std::reduce(resident_.begin(), resident_.end(), std::uint64_t{0});
        for (const std::uint32_t model : order_) {
            if (held <= budget) break;
            if (waiting[model]) continue;
            std::uint64_t goes = resident_[model];
            if (pages_) goes = std::min(goes, (held - budget + kPage - 1) / kPage * kPage);
            resident_[model] -= goes;
            held -= goes;
        }
    }
    void rest(double, double, std::uint64_t) override {}

private:
    static constexpr std::uint64_t kPage = 4096;
    [[nodiscard]] std::uint64_t total(std::uint32_t model) const {
        return std::reduce(stages_[model].begin(), stages_[model].end(), std::uint64_t{0});
    }
    const bool pages_;
    std::vector<std::vector<std::uint64_t>> stages_;
    std::vector<std::uint64_t> resident_; // bytes by model; what is missing is its beginning
    std::vector<std::uint32_t> order_;    // the least recently used model first
};

} // namespace

std::unique_ptr<Cache> make_cache(const Device& device, Strategy strategy,
                                  const memory::PolicyOptions& options) {
    if (strategy == Strategy::kPolicy) return std::make_unique<PolicyCache>(device, options);
    return std::make_unique<LruCache>(device, strategy == Strategy::kPageLru);
}

} // namespace flex::sim
