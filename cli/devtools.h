// Developer commands on a plain GGUF file, natively: tokenize, detokenize, logits, generate.
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds the subcommands to `app`. Each runs from CLI11's callback and reports a failure by throwing
/// CLI::RuntimeError with exit code 1 after printing one line on stderr.
void register_devtools(CLI::App& app);

} // namespace flex::cli
