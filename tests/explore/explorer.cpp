#include "explorer.hpp"

namespace flex::explore {

u64 mix(u64 hash, u64 value) {
    hash ^= value + 0x9e3779b97f4a7c15 + (hash << 6) + (hash >> 2);
    return (hash ^ (hash >> 29)) * 0xbf58476d1ce4e5b9;
}

Explorer::Explorer(Subject& subject, std::vector<Actor> actors)
    : subject_(subject), actors_(std::move(actors)), fibers_(actors_.size()) {
    for (Fiber& fiber : fibers_) fiber.stack.resize(256 * 1024);
}

bool Explorer::find(Finding& finding) {
    std::vector<std::vector<u8>> open{{}};
    while (!open.empty()) {
        const std::vector<u8> prefix = std::move(open.back());
        open.pop_back();
        if (run(prefix, open, finding)) return true;
    }
    return false;
}

bool Explorer::run(const std::vector<u8>& prefix, std::vector<std::vector<u8>>& open, Finding& finding) {
    runs_++;
    start_run();
    std::vector<u8> schedule;
    const auto found = [&](const std::string& what) {
        finding.what = what;
        for (const u8 actor : schedule) finding.schedule += static_cast<char>('A' + actor);
        return true;
    };
    for (;;) {
        std::vector<u8> choices;
        for (unsigned i = 0; i < fibers_.size(); i++) {
            if (!fibers_[i].done) choices.push_back(static_cast<u8>(i));
        }
        if (choices.empty()) {
            const std::string wrong = subject_.check_end();
            return !wrong.empty() && found("at the end: " + wrong);
        }
        u8 next = choices[0];
        if (schedule.size() < prefix.size()) {
            next = prefix[schedule.size()];
        } else {
            for (size_t i = 1; i < choices.size(); i++) {
                std::vector<u8> other = schedule;
                other.push_back(choices[i]);
                open.push_back(std::move(other));
            }
        }
        step(next);
        schedule.push_back(next);
        if (!failure_.empty()) return found(failure_);
        if (schedule.size() < prefix.size()) continue; // checked when it was first run
        const std::string wrong = subject_.check();
        if (!wrong.empty()) return found(wrong);
        if (!seen_.insert(signature()).second) return false;
    }
}

void Explorer::start_run() {
    subject_.restart();
    failure_.clear();
    const auto self = reinterpret_cast<u64>(this);
    for (Fiber& fiber : fibers_) {
        fiber.observed = 0, fiber.spinning = false, fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler_;
        makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Explorer::enter), 2,
                    static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
    }
}

void Explorer::enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Explorer*>(static_cast<u64>(high) << 32 | low);
    self->actors_[self->current_]();
    self->fibers_[self->current_].done = true;
    // Back to the scheduler through uc_link.
}

void Explorer::step(unsigned actor) {
    steps_++;
    current_ = actor;
    fibers_[actor].spinning = false;
    swapcontext(&scheduler_, &fibers_[actor].context);
}

void Explorer::give_way() {
    observe(1);
    swapcontext(&fibers_[current_].context, &scheduler_);
}

void Explorer::observe(u64 value) { fibers_[current_].observed = mix(fibers_[current_].observed, value); }

void Explorer::spin() {
    fibers_[current_].spinning = true;
    swapcontext(&fibers_[current_].context, &scheduler_);
}

void Explorer::fail(const std::string& what) {
    failure_ = what;
    swapcontext(&fibers_[current_].context, &scheduler_);
}

u64 Explorer::signature() const {
    u64 hash = subject_.fingerprint();
    for (const Fiber& fiber : fibers_) hash = mix(hash, fiber.observed * 4 + fiber.spinning * 2 + fiber.done);
    return hash;
}

} // namespace flex::explore
