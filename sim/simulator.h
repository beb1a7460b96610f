// What requests to several models wait for, with little memory: the framework's memory policy (the very
// source, framework/memory/policy.h) against strategies that know nothing of language models. Time is
// computed, nothing is slept; one request runs at a time.
//
// The model of time: missing stages are read in order, one after another; each is decrypted once it is read,
// and computed once it is decrypted and the stage before it is computed. What is resident is computed at
// once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "memory/policy.h"

namespace flex::sim {

struct Stage {
    std::uint64_t bytes = 0;
    double compute_share = 0; ///< of the time that a prompt takes; all stages together: 1
};

struct Model {
    std::string name;
    std::vector<Stage> stages;
    double prefill_rate = 0; ///< prompt tokens/s, weights resident
    double decode_rate = 0;  ///< tokens/s

    [[nodiscard]] std::uint64_t bytes() const;
};

/// An embedding, `layers` equal layers that take all the computing, and a head.
[[nodiscard]] Model make_model(std::string name, std::uint64_t embedding_bytes, std::uint32_t layers,
                               std::uint64_t layer_bytes, std::uint64_t head_bytes, double prefill_rate,
                               double decode_rate);

/// Bytes a second.
struct Device {
    double load_bandwidth = 0;
    double decrypt_bandwidth = 0;
    std::vector<Model> models;

    [[nodiscard]] double bandwidth() const; ///< of both, overlapping
};

struct Request {
    double at = 0; ///< seconds
    std::uint32_t model = 0;
    std::uint32_t prompt = 0, answer = 0; ///< tokens
};

/// From `at` on, this much may stay while no request runs. (What a running request lacks comes on top.)
struct Budget {
    double at = 0;
    std::uint64_t bytes = 0;
};

/// Both in the order of time; the first budget holds from the beginning.
struct Trace {
    std::vector<Request> requests;
    std::vector<Budget> budgets;
};

enum class Strategy : std::uint8_t {
    kAllFits,  ///< the budget is not looked at: what waiting for weights can at best be avoided
    kPolicy,   ///< ours, with prefetch while nothing runs
    kModelLru, ///< whole models, the least recently used goes first
    kPageLru,  ///< pages, the least recently used first: of a model that is its beginning
    kNoCache,  ///< nothing stays
};
[[nodiscard]] const char* name_of(Strategy strategy);

struct Outcome {
    double ttft = 0;            ///< seconds from the request's turn to its first token
    double queued = 0;          ///< seconds until its turn
    std::uint64_t streamed = 0; ///< bytes that it had to bring in
};

/// Seconds to the first token when `missing[i]` bytes of stage i have to be brought in.
[[nodiscard]] double first_token(const Device& device, const Model& model, std::uint32_t prompt,
                                 std::span<const std::uint64_t> missing);

/// By request.
[[nodiscard]] std::vector<Outcome> simulate(const Device& device, const Trace& trace, Strategy strategy,
                                            const memory::PolicyOptions& options = {});

struct Summary {
    double mean_ttft = 0, median_ttft = 0, p95_ttft = 0, mean_queued = 0;
    double streamed_bytes = 0; ///< mean of a request
};
/// Of all but the first `skip` outcomes, in which the caches fill.
[[nodiscard]] Summary summarise(std::span<const Outcome> outcomes, std::size_t skip);

} // namespace flex::sim
