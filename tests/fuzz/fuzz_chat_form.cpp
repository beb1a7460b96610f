// The bytes of a chat form -> a form that can be rendered with and written again as it was.
#include <cstdlib>

#include "tokenizer/chat_form.h"

using namespace flex::tokenizer;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
    const auto form = ChatForm::parse(bytes);
    if (!form.ok()) return 0;
    const auto again = form->serialize();
    if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
    static const Conversation conversations[] = {
        {{{Role::kUser, "a"}}},
        {{{Role::kSystem, " s "}, {Role::kUser, "a"}, {Role::kAssistant, "b", "r"}, {Role::kUser, "c"}}},
        {{{Role::kUser, "a"},
          {Role::kAssistant, "<think>x</think>y", "", {{"f", "{\"k\":[1]}"}}},
          {Role::kTool, "t"}},
         {R"({"type":"function","function":{"name":"f"}})", "{}"},
         true,
         false}};
    for (const Conversation& conversation : conversations) static_cast<void>(form->render_text(conversation));
    return 0;
}
