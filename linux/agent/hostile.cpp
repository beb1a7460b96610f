#include "linux/agent/hostile.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

namespace flex::agent {
namespace {

bool makes_handle(flex_u32 op) {
    return op == FLEX_RPC_OPEN || op == FLEX_RPC_LISTEN || op == FLEX_RPC_ACCEPT;
}
bool brings_data(flex_u32 op) { return op == FLEX_RPC_READ || op == FLEX_RPC_RECEIVE; }

bool changes_files(flex_u32 op) {
    return op == FLEX_RPC_WRITE || op == FLEX_RPC_SYNC || op == FLEX_RPC_RENAME || op == FLEX_RPC_TRUNCATE;
}

} // namespace

HostileMode HostileMode::parse(std::string_view line) {
    line = line.substr(0, line.find('\n'));
    HostileMode mode;
    for (const auto& [word, of] : {std::pair{std::string_view("files "), Of::kFiles}, {"streams ", Of::kStreams}}) {
        if (!line.starts_with(word)) continue;
        line.remove_prefix(word.size());
        mode.of = of;
        break;
    }
    std::size_t space = line.find(' ');
    if (space != line.npos) mode.parameter = line.substr(space + 1);
    if (std::string_view name = line.substr(0, space); !name.empty()) mode.name = name;
    return mode;
}

HostileMode HostileMode::read(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    return std::getline(file, line) ? parse(line) : HostileMode{};
}

bool HostileMode::concerns(flex_u32 op) const {
    const bool file = op == FLEX_RPC_LOAD || (op >= FLEX_RPC_OPEN && op <= FLEX_RPC_TRUNCATE);
    const bool stream = op >= FLEX_RPC_LISTEN && op <= FLEX_RPC_SHUTDOWN;
    return of == Of::kAll || (of == Of::kFiles ? file : stream);
}

bool Liar::before(flex_rpc_slot& slot) {
    op_ = slot.op;
    if (!mode_.concerns(op_)) mode_ = HostileMode();
    asked_ = op_ == FLEX_RPC_READ ? slot.arg[2] : slot.arg[1];
    if (mode_.is("swap") && (op_ == FLEX_RPC_READ || op_ == FLEX_RPC_LOAD)) {
        std::uint64_t block = std::strtoull(mode_.parameter.c_str(), nullptr, 0);
        if (block && (block & (block - 1)) == 0) slot.arg[1] ^= block;
    }
    if (mode_.is("substitute") && op_ == FLEX_RPC_OPEN &&
        slot.data_len + mode_.parameter.size() <= FLEX_RPC_NAME_MAX) {
        name_bytes_ = slot.data_len;
        std::memcpy(slot.data + slot.data_len, mode_.parameter.data(), mode_.parameter.size());
        slot.data_len += static_cast<flex_u32>(mode_.parameter.size());
    }
    if (mode_.is("swallow-writes") && changes_files(op_)) {
        slot.result = op_ == FLEX_RPC_WRITE ? static_cast<flex_s64>(slot.data_len) : 0;
        slot.data_len = 0;
        return true;
    }
    return false;
}

bool Liar::again(flex_rpc_slot& slot) {
    if (name_bytes_ == 0 || slot.result != -ENOENT) return false;
    slot.data_len = name_bytes_;
    name_bytes_ = 0;
    return true;
}

void Liar::after(flex_rpc_slot& slot) {
    if (mode_.is("long-data")) slot.data_len = random_ & 1 ? 0xffffffffu : FLEX_RPC_DATA_BYTES + 1;
    if (mode_.is("negative-result"))
        slot.result = random_ & 1 ? INT64_MIN : -4096 - static_cast<flex_s64>(random_ >> 40);
    if (mode_.is("huge-result")) slot.result = INT64_MAX;
    if (mode_.is("bad-handles") && makes_handle(op_)) slot.result = random_ & 1 ? 65536 : INT64_MAX - 7;
    if (mode_.is("same-handle") && makes_handle(op_) && slot.result >= 0) slot.result = 0;
    if (mode_.is("false-size") && op_ == FLEX_RPC_OPEN)
        slot.out[0] = random_ & 1 ? ~0ull : slot.out[0] / 2 + 1;
    if (mode_.is("false-size") && op_ == FLEX_RPC_SIZE)
        slot.result = random_ & 1 ? INT64_MAX : slot.result / 2 + 1;
    if (mode_.is("random-errors") && one_in_three()) {
        slot.result = -1 - static_cast<flex_s64>((random_ >> 8) % 132);
        slot.data_len = 0;
    }
    spoil_data(slot);
}

void Liar::spoil_data(flex_rpc_slot& slot) {
    if (brings_data(op_) && slot.result > 0) {
        if (mode_.is("more-than-asked")) {
            slot.result = static_cast<flex_s64>(asked_) + 1 + static_cast<flex_s64>(random_ % 4096);
            slot.data_len = static_cast<flex_u32>(slot.result);
        }
        if (mode_.is("short-reads")) {
            slot.result = (slot.result + 1) / 2;
            slot.data_len = static_cast<flex_u32>(slot.result);
        }
        if (mode_.is("no-data")) slot.data_len = 0;
        if (mode_.is("flip-bit")) slot.data[random_ % static_cast<std::uint64_t>(slot.result)] ^= 1;
    }
    if (mode_.is("random-answers") && one_in_three()) {
        std::minstd_rand noise(static_cast<unsigned>(random_ >> 8));
        auto* bytes = reinterpret_cast<flex_u8*>(&slot);
        for (std::size_t i = 0; i < 4096; i++) bytes[i] = static_cast<flex_u8>(noise());
    }
}

} // namespace flex::agent
