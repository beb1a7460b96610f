// Byte-pair merging over a vocabulary of byte strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/token.h"

namespace flex::tokenizer {

/// Byte strings numbered in the order they were added, found by content. Open addressing: 4 bytes a slot.
class SymbolTable {
public:
    static constexpr std::uint32_t kNone = 0xffffffffu;

    /// Adds a string under the next number; only `findable` ones can be looked up, and of equal ones the
    /// first wins.
    std::uint32_t add(std::string_view bytes, bool findable);
    [[nodiscard]] std::uint32_t find(std::string_view bytes) const;
    [[nodiscard]] std::string_view bytes(std::uint32_t symbol) const {
        return std::string_view(text_).substr(begin_[symbol], begin_[symbol + 1] - begin_[symbol]);
    }
    [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(begin_.size() - 1); }

private:
    [[nodiscard]] std::size_t slot_of(std::string_view bytes) const;
    void grow();

    std::string text_;
    std::vector<std::uint64_t> begin_{0};
    std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(16, kNone);
    std::size_t used_ = 0;
};

/// What two neighbouring symbols become, and how early.
class MergeTable {
public:
    struct Merge {
        std::uint32_t rank = SymbolTable::kNone; // kNone: these two do not merge
        std::uint32_t symbol = SymbolTable::kNone;
    };
    void reserve(std::size_t merges);
    /// Of equal pairs the first wins. Not more pairs than reserved.
    void add(std::uint32_t left, std::uint32_t right, Merge merge);
    [[nodiscard]] Merge find(std::uint32_t left, std::uint32_t right) const;

private:
    struct Slot {
        std::uint64_t pair = ~0ull; // left << 32 | right
        Merge merge;
    };
    [[nodiscard]] std::size_t slot_of(std::uint64_t pair) const;
    std::vector<Slot> slots_;
};

/// Merges one word at a time; keeps its memory from word to word. One thread.
class Merger {
public:
    explicit Merger(const MergeTable& merges) : merges_(merges) {}
    /// Repeatedly merges the pair of lowest rank (of equal rank the leftmost) and leaves the result in
    /// `symbols`. O(n log n) in the length of the word.
    void merge(std::vector<std::uint32_t>& symbols);

private:
    struct Candidate {
        std::uint32_t rank, left, left_symbol, right_symbol, merged;
        // For a heap whose front is the candidate to take first.
        bool operator<(const Candidate& other) const {
            return rank != other.rank ? rank > other.rank : left > other.left;
        }
    };
    void consider(const std::vector<std::uint32_t>& symbols, std::uint32_t left);

    const MergeTable& merges_;
    std::vector<std::uint32_t> next_, previous_;
    std::vector<Candidate> heap_;
};

} // namespace flex::tokenizer
