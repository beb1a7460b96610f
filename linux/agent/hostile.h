// Hostile mode: the agent lies. For the attack tests; the secure world must not depend on the agent's
// honesty, so a product agent that can lie is no weaker than one that cannot. What the kernel answers (ALLOC,
// LOAD) is doctored by flexattack.ko.
//
// The mode is the first line of a file, read for every RPC, so that one boot serves many attacks. A mode concerns all
// RPCs it makes sense for; after the word `files` those on files only, after `streams` those on streams only:
//   none
//   long-data            data_len beyond the slot
//   negative-result      a result that is no errno
//   huge-result          2^63 - 1
//   more-than-asked      READ and RECEIVE: more bytes than were asked for
//   bad-handles          OPEN, LISTEN and ACCEPT: handles out of range
//   same-handle          OPEN, LISTEN and ACCEPT: always the same handle, 0
//   short-reads          READ and RECEIVE: half of what there is, at least 1 byte
//   no-data              READ and RECEIVE: all that was asked, but data_len 0
//   flip-bit             READ and RECEIVE: one bit of the data differs
//   random-errors        one answer in three is an errno at random
//   random-answers       head and data of one answer in three are noise
//   false-size           OPEN and SIZE: a size that is not the file's
//   swap N               READ and LOAD: blocks of N bytes are exchanged in pairs
//   substitute SUFFIX    OPEN of NAME opens NAME + SUFFIX when that exists: an older package, stale content
//   swallow-writes       WRITE, SYNC, RENAME, TRUNCATE: reported as done, not done
#ifndef FLEX_LINUX_AGENT_HOSTILE_H
#define FLEX_LINUX_AGENT_HOSTILE_H

#include "abi/rpc.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace flex::agent {

struct HostileMode {
    enum class Of : unsigned char { kAll, kFiles, kStreams };

    Of of = Of::kAll;
    std::string name = "none";
    std::string parameter;

    [[nodiscard]] bool is(std::string_view other) const { return name == other; }
    [[nodiscard]] bool concerns(flex_u32 op) const;
    [[nodiscard]] static HostileMode parse(std::string_view line);
    // "none" when the file is absent.
    [[nodiscard]] static HostileMode read(const std::string& path);
};

class Liar {
public:
    // The mode holds for one RPC; `random` is 64 random bits for it.
    Liar(HostileMode mode, std::uint64_t random) : mode_(std::move(mode)), random_(random) {}

    // Before the RPC is served. True when it is not to be served at all: the slot is answered already.
    bool before(flex_rpc_slot& slot);
    // After it was served. True when there was nothing to substitute: the slot is as it was asked, serve it
    // again.
    bool again(flex_rpc_slot& slot);
    // After that.
    void after(flex_rpc_slot& slot);

private:
    [[nodiscard]] bool one_in_three() const { return random_ % 3 == 0; }
    void spoil_data(flex_rpc_slot& slot);

    HostileMode mode_;
    std::uint64_t random_;
    flex_u32 op_ = 0;
    flex_u64 asked_ = 0;
    flex_u32 name_bytes_ = 0; // of an OPEN whose name was changed, before that
};

} // namespace flex::agent

#endif
