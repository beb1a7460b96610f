// A model's Jinja chat template -> the small form that the secure world reads (tokenizer/chat_form.h). Host
// only.
//
// The template is not read but tried: a library renders some thousand conversations with it (chat_probes.h),
// each text marked. Where the marks are found again says what the template does to each text, and what it
// writes between two of them. Then the fewest conditions are sought under which every observation agrees with
// every other. At the end the form must give, byte for byte, what the library gave: for these conversations
// and for several hundred others.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/gguf.h"
#include "package/jinja.h"
#include "tokenizer/chat_form.h"

namespace flex::package {

struct CompiledTemplate {
    tokenizer::ChatForm form;
    std::size_t probes = 0; ///< renderings that it reproduces
    std::string note;       ///< what had to be left out; may be empty
};

/// Errors: kUnsupported (which construct the form cannot take, and that --template helps), those of
/// render_jinja.
Result<CompiledTemplate> compile_template(const JinjaTemplate& jinja);

/// The form to seal a model with, serialized; empty, with a note, for a file without a template.
struct SealedChat {
    std::vector<std::byte> form;
    std::string note; ///< for the publisher; may be empty
};
/// The template is the file's own, or `other`: a name (named_template) or a file's path.
/// Errors: those of compile_template; kNotFound, kIo (the file); what is wrong with the file's vocabulary.
Result<SealedChat> chat_form_of(const engine::Gguf& gguf, const std::string& other);
Result<SealedChat> chat_form_of_file(const std::string& path, const std::string& other);

/// The Jinja text behind a name of `--template`: "chatml", "llama3". Error: kNotFound.
Result<std::string> named_template(std::string_view name);

} // namespace flex::package
