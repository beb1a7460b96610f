#include "api/prepare.h"

#include <ctime>

namespace flex::api {
namespace {

Status check_tokens(const std::vector<TokenId>& prompt, const CompletionRequest& request,
                    const pipeline::ServedModel& model) {
    const std::uint32_t vocabulary = model.weights->model().shape().vocabulary;
    if (prompt.empty()) return fail(ErrorCode::kInvalidArgument, "the prompt is empty");
    for (const TokenId token : prompt) {
        if (token >= vocabulary) {
            return fail(ErrorCode::kInvalidArgument, "token " + std::to_string(token) +
                                                         " is not in the vocabulary of " +
                                                         std::to_string(vocabulary));
        }
    }
    for (const auto& [token, bias] : request.options.sampler.logit_bias) {
        if (token >= vocabulary)
            return fail(ErrorCode::kInvalidArgument, "logit_bias names token " + std::to_string(token) +
                                                         ", which is not in the vocabulary of " +
                                                         std::to_string(vocabulary));
    }
    if (prompt.size() >= model.context) {
        return fail(ErrorCode::kContextFull,
                    "the prompt has " + std::to_string(prompt.size()) + " tokens; the context holds " +
                        std::to_string(model.context) + " and the answer needs room too");
    }
    return {};
}

} // namespace

std::string random_id(const char* prefix) {
    std::array<std::byte, 12> id{};
    if (!crypto::random(id)) return prefix;
    return prefix + crypto::hex(id);
}

Result<PreparedRequest> prepare(pipeline::Registry& models, CompletionRequest request, const Caller& caller,
                                std::chrono::steady_clock::time_point received) {
    FLEX_ASSIGN(auto model, models.get(request.model));
    std::vector<TokenId> prompt = std::move(request.prompt_tokens);
    if (request.endpoint == Endpoint::kChat) {
        FLEX_ASSIGN(prompt, model->weights->chat_template().render(request.conversation));
    } else if (prompt.empty()) {
        prompt = model->weights->tokenizer().encode_prompt(request.prompt);
    }
    FLEX_TRY(check_tokens(prompt, request, *model));
    request.options.max_tokens = request.max_tokens == 0 ? model->context : request.max_tokens;
    const auto& info = model->weights->info();
    request.options.scope = caller.scope(info.name, info.version, request.cache_key);
    request.options.owner = caller.owner(request.cache_key);
    if (!request.has_seed) {
        FLEX_TRY(crypto::random(std::as_writable_bytes(std::span(&request.options.sampler.seed, 1))));
    }
    PreparedRequest prepared;
    prepared.head = {request.endpoint, random_id(request.endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-"),
                     static_cast<std::int64_t>(std::time(nullptr)), request.model};
    prepared.generation =
        std::make_shared<Generation>(std::move(model), std::move(prompt), request.options, received);
    prepared.request = std::move(request);
    return prepared;
}

} // namespace flex::api
