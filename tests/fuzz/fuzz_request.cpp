// The body of an HTTP request -> a checked request. What was accepted must be within the documented bounds.
#include <cstdlib>

#include "api/openai.h"
#include "tokenizer/json_text.h"

using namespace flex::api;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    const std::string_view body(reinterpret_cast<const char*>(data), size);
    for (const Endpoint endpoint : {Endpoint::kChat, Endpoint::kCompletion}) {
        const auto request = parse_request(endpoint, body);
        if (!request.ok()) {
            if (request.error().message.find('\n') != std::string::npos) std::abort();
            static_cast<void>(format_error(request.error()));
            continue;
        }
        if (!flex::engine::check(request->options.sampler).ok()) std::abort();
        if (request->options.stop.size() > kMaxStopStrings ||
            request->conversation.messages.size() > kMaxMessages ||
            request->conversation.tools.size() > kMaxTools)
            std::abort();
        for (const std::string& tool : request->conversation.tools) {
            for (unsigned style = 0; style < flex::tokenizer::kJsonStyles; ++style)
                static_cast<void>(
                    flex::tokenizer::json_in_style(tool, static_cast<flex::tokenizer::JsonStyle>(style)));
            static_cast<void>(flex::tokenizer::json_member(tool, "function"));
        }
    }
    return 0;
}
