#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>

namespace flex::tokenizer {

namespace {

std::uint64_t mix(std::uint64_t x) { // murmur3's finaliser
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ (x >> 33);
}

std::uint64_t hash(std::string_view bytes) { // FNV-1a, then mixed
    std::uint64_t h = 0xcbf29ce484222325ull;
    for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    return mix(h);
}

constexpr std::uint32_t kEnd = SymbolTable::kNone; // of the list of symbols

} // namespace

std::size_t SymbolTable::slot_of(std::string_view wanted) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash(wanted) & mask;
    while (slots_[slot] != kNone && bytes(slots_[slot]) != wanted) slot = (slot + 1) & mask;
    return slot;
}

std::uint32_t SymbolTable::find(std::string_view wanted) const { return slots_[slot_of(wanted)]; }

void SymbolTable::grow() {
    std::vector<std::uint32_t> old(slots_.size() * 2, kNone);
    old.swap(slots_);
    for (const std::uint32_t symbol : old) {
        if (symbol != kNone) slots_[slot_of(bytes(symbol))] = symbol;
    }
}

std::uint32_t SymbolTable::add(std::string_view added, bool findable) {
    const std::uint32_t symbol = size();
    text_ += added;
    begin_.push_back(text_.size());
    if (!findable) return symbol;
    if ((used_ + 1) * 4 > slots_.size() * 3) grow();
    std::uint32_t& slot = slots_[slot_of(bytes(symbol))];
    if (slot == kNone) {
        slot = symbol;
        ++used_;
    }
    return symbol;
}

void MergeTable::reserve(std::size_t merges) { slots_.assign(std::bit_ceil(merges * 3 / 2 + 2), Slot{}); }

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = mix(pair) & mask;
    while (slots_[slot].pair != ~0ull && slots_[slot].pair != pair) slot = (slot + 1) & mask;
    return slot;
}

void MergeTable::add(std::uint32_t left, std::uint32_t right, Merge merge) {
    const std::uint64_t pair = std::uint64_t{left} << 32 | right;
    Slot& slot = slots_[slot_of(pair)];
    if (slot.pair == ~0ull) slot = {pair, merge};
}

MergeTable::Merge MergeTable::find(std::uint32_t left, std::uint32_t right) const {
    return slots_[slot_of(std::uint64_t{left} << 32 | right)].merge;
}

void Merger::consider(const std::vector<std::uint32_t>& symbols, std::uint32_t left) {
    if (left == kEnd || next_[left] == kEnd) return;
    const std::uint32_t a = symbols[left], b = symbols[next_[left]];
    const MergeTable::Merge merge = merges_.find(a, b);
    if (merge.rank == SymbolTable::kNone) return;
    heap_.push_back({merge.rank, left, a, b, merge.symbol});
    std::push_heap(heap_.begin(), heap_.end());
}

void Merger::merge(std::vector<std::uint32_t>& symbols) {
    const auto count = static_cast<std::uint32_t>(symbols.size());
    if (count < 2) return;
    next_.resize(count);
    previous_.resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        next_[i] = i + 1 < count ? i + 1 : kEnd;
        previous_[i] = i > 0 ? i - 1 : kEnd;
    }
    heap_.clear();
    for (std::uint32_t i = 0; i + 1 < count; ++i) consider(symbols, i);
    while (!heap_.empty()) {
        std::pop_heap(heap_.begin(), heap_.end());
        const Candidate best = heap_.back();
        heap_.pop_back();
        const std::uint32_t right = next_[best.left];
        // Symbols only ever grow, so equal symbols mean that this candidate is still what it was.
        if (symbols[best.left] != best.left_symbol || right == kEnd || symbols[right] != best.right_symbol)
            continue;
        symbols[best.left] = best.merged;
        symbols[right] = SymbolTable::kNone; // swallowed
        next_[best.left] = next_[right];
        if (next_[right] != kEnd) previous_[next_[right]] = best.left;
        consider(symbols, previous_[best.left]);
        consider(symbols, best.left);
    }
    std::erase(symbols, SymbolTable::kNone);
}

} // namespace flex::tokenizer
