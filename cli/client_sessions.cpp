// flexserve sessions: what the device keeps of a caller's conversations, and forgetting it.
#include <cstdio>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/client_api.h"
#include "cli/output.h"
#include "launcher/device.h"

namespace flex::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kNativePort = 8443; // flexserved's own default
constexpr std::size_t kIdLetters = 32;

struct SessionsArguments {
    ApiClient::Caller caller;
    bool native = false, all = false;
    int port = kNativePort;
    std::string id;
};

ApiClient connect(const SessionsArguments& arguments) {
    if (arguments.caller.api_key.empty() && arguments.caller.conversation.empty())
        throw std::runtime_error("whose? give --api-key (or FLEXSERVE_API_KEY), or --conversation");
    if (arguments.native)
        return connect_natively(static_cast<std::uint16_t>(arguments.port), native_folder());
    return connect_to(platform::Device(platform::device_folder()));
}

void list(const SessionsArguments& arguments) {
    const std::string text = connect(arguments).sessions(arguments.caller);
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object() || !json.contains("sessions"))
        throw std::runtime_error("the device's answer is no list of sessions");
    if (json_wanted()) {
        std::printf("%s\n", text.c_str());
        return;
    }
    if (json["sessions"].empty()) {
        std::printf("nothing is kept of this caller\n");
        return;
    }
    std::printf("%-32s  %-18s  %-7s  %8s  %8s\n", "id", "model", "state", "tokens", "stored");
    for (const Json& one : json["sessions"])
        std::printf("%-32s  %-18s  %-7s  %8u  %8u\n", printable(one.value("id", "")).c_str(),
                    printable(one.value("model", "")).c_str(), printable(one.value("state", "")).c_str(),
                    one.value("tokens", 0u), one.value("stored_tokens", 0u));
}

void remove(const SessionsArguments& arguments) {
    if (arguments.all == !arguments.id.empty())
        throw std::runtime_error("which? give an ID of flexserve sessions, or --all");
    if (!arguments.all && (arguments.id.size() != kIdLetters ||
                           arguments.id.find_first_not_of("0123456789abcdef") != std::string::npos))
        throw std::runtime_error("an ID has 32 letters of 0-9 and a-f, as flexserve sessions lists them");
    const std::size_t deleted = connect(arguments).delete_sessions(arguments.caller, arguments.id);
    if (json_wanted())
        std::printf("{\"deleted\":%zu}\n", deleted);
    else
        std::printf("deleted %zu; no older copy of the store brings them back\n", deleted);
}

} // namespace

void register_sessions(CLI::App& app) {
    auto arguments = std::make_shared<SessionsArguments>();
    CLI::App* command = app.add_subcommand(
        "sessions", "lists a caller's conversations that the device keeps; sessions delete forgets them");
    command->add_option("--api-key", arguments->caller.api_key, "the caller's key, as its requests bring it")
        ->envname("FLEXSERVE_API_KEY");
    command->add_option("--conversation", arguments->caller.conversation,
                        "prompt_cache_key of the requests, for a caller without an API key");
    auto* native = command->add_flag("--native", arguments->native,
                                     "of a flexserved on this machine (--home of flexserve's native folder)");
    command->add_option("--port", arguments->port, "its port")
        ->capture_default_str()
        ->needs(native)
        ->check(CLI::Range(1, 65535));
    CLI::App* erase =
        command->add_subcommand("delete", "forgets one conversation, or all of the caller's, for good")
            ->fallthrough();
    erase->add_option("id", arguments->id, "as listed");
    erase->add_flag("--all", arguments->all, "all of this caller's");
    command->callback([arguments, erase] {
        if (erase->parsed())
            remove(*arguments);
        else
            list(*arguments);
    });
}

} // namespace flex::cli
