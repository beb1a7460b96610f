// From a checked request to one that can be computed.
#pragma once

#include <chrono>
#include <memory>

#include "api/caller.h"
#include "api/generation.h"
#include "api/openai.h"
#include "pipeline/registry.h"

namespace flex::api {

struct PreparedRequest {
    AnswerHead head;
    CompletionRequest request;
    std::shared_ptr<Generation> generation; ///< not yet submitted
};

/// Opens the model, makes tokens of the prompt, checks what only the model can tell. Errors: as
/// Registry::get, kInvalidArgument, kContextFull.
Result<PreparedRequest> prepare(pipeline::Registry& models, CompletionRequest request, const Caller& caller,
                                std::chrono::steady_clock::time_point received);

/// `prefix` and 24 hexadecimal digits.
[[nodiscard]] std::string random_id(const char* prefix);

} // namespace flex::api
