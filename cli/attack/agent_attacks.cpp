// The agent lies in its answers to RPCs (linux/agent/hostile.h), while a model has to be opened, read and talked to.
#include <algorithm>
#include <array>

#include "cli/attack/attack.h"
#include "cli/attack/target.h"

namespace flex::attack {
namespace {

constexpr std::chrono::seconds kPatience{12}; // a lie may well make a request wait for ever
constexpr const char* kStarts = "tos/program_starts";
constexpr const char* kRefused = "tos/rpc_answers_refused";

/// Tells the truth again when it goes.
class Lie {
public:
    Lie(Target& target, const std::string& mode) : target_(target) { target_.set_lie(mode); }
    ~Lie() {
        try {
            target_.set_lie("none");
        } catch (const platform::DeviceError&) {
            // The device is gone; the check that follows every attack says so.
        }
    }
    Lie(const Lie&) = delete;
    Lie& operator=(const Lie&) = delete;

private:
    Target& target_;
};

/// A wrong answer, or the end of the program, is a breach; a failed request is what a lie may cost.
Outcome judge(Target& target, const Completion& answer, std::uint64_t starts, std::uint64_t refused) {
    if (answer.ok && !answer.same_as(target.reference())) return breach("the model answered \"" + answer.text + "\"");
    if (const std::uint64_t now = target.stat(kStarts); now != starts)
        return breach("the secure program ended and was started again");
    const std::uint64_t more = target.stat(kRefused) - refused;
    const std::string count = more == 0 ? "" : ", " + std::to_string(more) + " answers refused";
    if (answer.ok) return blocked("the request was answered rightly all the same" + count);
    return blocked("the request failed: " + answer.error + count);
}

/// Under the lie a model that is not in memory is asked for.
Outcome lie_while_loading(Target& target, const std::string& mode) {
    std::string name = "attack-" + mode;
    std::replace(name.begin(), name.end(), ' ', '-');
    target.seal_as(name);
    if (!target.drop_models()) return failed("the framework does not let go of the models it has");
    const std::uint64_t starts = target.stat(kStarts), refused = target.stat(kRefused);
    Query query = target.reference_query(name);
    query.timeout = kPatience;
    Completion answer;
    {
        const Lie lie(target, mode);
        answer = target.api().complete(query);
    }
    // The secure world may still be busy with what it was told.
    if (const auto problem = target.damage()) return breach(*problem);
    target.remove_package(name);
    return judge(target, answer, starts, refused);
}

/// The model is in memory: only the request and its answer pass through the lie.
Outcome lies_about_streams(Target& target) {
    constexpr std::array kModes{"long-data",   "negative-result", "huge-result",   "more-than-asked", "bad-handles", "same-handle",
                                "short-reads", "no-data",         "random-errors", "random-answers",  "flip-bit"};
    std::uint64_t failed_requests = 0;
    const std::uint64_t refused = target.stat(kRefused);
    for (const char* mode : kModes) {
        const std::uint64_t starts = target.stat(kStarts);
        Query query = target.reference_query();
        query.timeout = std::chrono::seconds(3);
        Completion answer;
        {
            const Lie lie(target, std::string("streams ") + mode);
            answer = target.api().complete(query);
        }
        if (const auto problem = target.damage()) return breach(std::string(mode) + ": " + *problem);
        const Outcome outcome = judge(target, answer, starts, target.stat(kRefused));
        if (outcome.verdict != Verdict::kBlocked) return {outcome.verdict, std::string(mode) + ": " + outcome.how};
        failed_requests += !answer.ok;
    }
    return blocked(std::to_string(failed_requests) + " of " + std::to_string(kModes.size()) + " requests failed, " +
                   std::to_string(target.stat(kRefused) - refused) + " answers refused");
}

/// Storage brings back what was there before: the agent opens another file than the one asked for.
Outcome older_package(Target& target) {
    const std::string name = "attack-rollback";
    const std::uint64_t newest = target.seal_as(name);
    if (!target.drop_models()) return failed("the framework does not let go of the models it has");
    const Completion first = target.api().complete(target.reference_query(name));
    if (!first.same_as(target.reference())) return failed("the newest package does not answer: " + first.error);
    if (!target.drop_models()) return failed("the framework does not let go of the models it has");
    seal_for(target.device(), {.gguf = target.model_file(), .name = name, .version = newest - 1, .file = target.package_file(name).string() + ".old"});
    Completion answer;
    {
        const Lie lie(target, "substitute .old");
        answer = target.api().complete(target.reference_query(name));
    }
    std::filesystem::remove(target.package_file(name).string() + ".old");
    target.remove_package(name);
    if (answer.ok) return breach("a package older than one the device has seen was accepted");
    if (answer.error.find("is older than version") == std::string::npos) return failed("refused for another reason: " + answer.error);
    return blocked(answer.error);
}

Attack lie(const char* name, int threat, const char* mode, const char* does) {
    return {name, threat, Kind::kAgent, does, [mode = std::string(mode)](Target& target) { return lie_while_loading(target, mode); }};
}

} // namespace

std::vector<Attack> agent_attacks() {
    return {
        lie("rpc-long-data", 15, "files long-data", "answers RPCs with more data than a slot holds"),
        lie("rpc-negative-result", 15, "files negative-result", "answers RPCs with results that are no error numbers"),
        lie("rpc-huge-result", 15, "files huge-result", "answers RPCs with 2^63 - 1"),
        lie("rpc-more-than-asked", 15, "files more-than-asked", "returns more bytes than were asked for"),
        lie("rpc-bad-handles", 15, "files bad-handles", "returns file handles out of range"),
        lie("rpc-same-handle", 15, "same-handle", "returns the same handle for all files and streams"),
        lie("rpc-no-data", 15, "files no-data", "reports data that it does not return: the slot's old content"),
        lie("rpc-false-size", 15, "false-size", "lies about the sizes of files"),
        lie("rpc-random-errors", 15, "files random-errors", "fails one request in three with an error at random"),
        lie("rpc-random-answers", 15, "files random-answers", "fills one answer in three with noise"),
        {"rpc-streams", 15, Kind::kAgent, "lies in all these ways about the network", lies_about_streams},
        lie("file-short-reads", 16, "files short-reads", "returns half of what is read"),
        lie("file-flip-bit", 16, "files flip-bit", "flips one bit of everything that is read"),
        lie("file-swap", 16, "swap 65536", "exchanges blocks of a package"),
        {"file-older", 17, Kind::kAgent, "opens an older package in the place of the newest", older_package},
    };
}

} // namespace flex::attack
