// Runs actors as fibers, one step at a time, through every order of their steps.
//
// Depth-first with replay: a schedule is a list of choices; each run starts from a fresh world, replays a
// prefix and goes on. A run ends early when it comes to a state that was seen before (all shared memory, and
// for each actor what it has observed so far, which determines where it is and what it knows), so orders that
// make no difference are explored once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <ucontext.h>
#include <unordered_set>
#include <vector>

namespace flex::explore {

using u8 = uint8_t;
using u64 = uint64_t;

// A world that is rebuilt at the same address for every run.
class Subject {
public:
    virtual ~Subject() = default;
    virtual void restart() = 0;
    [[nodiscard]] virtual u64 fingerprint() const = 0;
    // Empty, or what is wrong with the present state.
    [[nodiscard]] virtual std::string check() const = 0;
    // The same once every actor has ended.
    [[nodiscard]] virtual std::string check_end() const = 0;
};

struct Finding {
    std::string what;
    std::string schedule; // the actor of each step, as a letter
};

class Explorer {
public:
    using Actor = std::function<void()>;

    Explorer(Subject& subject, std::vector<Actor> actors);
    Explorer(const Explorer&) = delete;
    Explorer& operator=(const Explorer&) = delete;

    // Stops at the first finding. False: nothing was found in any order.
    bool find(Finding& finding);

    [[nodiscard]] u64 runs() const { return runs_; }
    [[nodiscard]] u64 states() const { return seen_.size(); }
    [[nodiscard]] u64 steps() const { return steps_; }

    // From within an actor: the next step may be another actor's.
    void give_way();
    // From within an actor: it has learnt `value` from shared state.
    void observe(u64 value);
    // From within an actor that waits for another: the same place as before.
    void spin();
    // From within an actor: this cannot be right.
    void fail(const std::string& what);
    [[nodiscard]] unsigned current() const { return current_; }

private:
    struct Fiber {
        ucontext_t context;
        std::vector<u8> stack;
        u64 observed = 0;
        bool spinning = false;
        bool done = false;
    };

    static void enter(unsigned high, unsigned low);
    void start_run();
    void step(unsigned actor);
    [[nodiscard]] u64 signature() const;
    bool run(const std::vector<u8>& prefix, std::vector<std::vector<u8>>& open, Finding& finding);

    Subject& subject_;
    std::vector<Actor> actors_;
    std::vector<Fiber> fibers_;
    ucontext_t scheduler_{};
    std::unordered_set<u64> seen_;
    std::string failure_;
    unsigned current_ = 0;
    u64 runs_ = 0;
    u64 steps_ = 0;
};

u64 mix(u64 hash, u64 value);

} // namespace flex::explore
