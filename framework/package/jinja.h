// A model's Jinja template, rendered on the publisher's machine by python3-jinja2. Host only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tokenizer/chat.h"

namespace flex::package {

struct JinjaTemplate {
    std::string text;
    std::string bos_token, eos_token; ///< names of the tokens, empty if there are none
};

/// The text, or why the template refused the conversation.
struct Rendering {
    bool refused = false;
    std::string text;
};

/// One rendering for each conversation, in a process of its own with bounds on time and memory (templates
/// come with models, so they are no more to be trusted than these). Any thread. Errors: kNotFound
/// (python3-jinja2 is not installed), kCorrupt (the template is not Jinja, or has no end), kInternal, kIo.
Result<std::vector<Rendering>> render_jinja(const JinjaTemplate& jinja,
                                            std::span<const tokenizer::Conversation> conversations);

} // namespace flex::package
