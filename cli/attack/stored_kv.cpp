#include "cli/attack/stored_kv.h"

#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/crypto.h"

namespace flex::attack {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Json = nlohmann::json;
using platform::DeviceError;

namespace {

constexpr const char* kSessions = "/flexserve/sessions";
constexpr auto kSavePatience =
    60s; // it is written a second after the answer, on a machine that has other work

Json parsed(const Reply& reply, const std::string& what) {
    Json json = Json::parse(reply.body, nullptr, false);
    if (reply.status != 200 || !json.is_object())
        throw DeviceError(what + ": status " + std::to_string(reply.status) + " " + reply.error +
                          reply.body.substr(0, 200));
    return json;
}

Query query_of(const std::vector<std::uint32_t>& prompt) {
    return {.model = Target::kModel,
            .prompt = {},
            .prompt_tokens = prompt,
            .chat = false,
            .max_tokens = 6,
            .extra = R"("return_logits":true)"};
}

Completion checked(Completion answer) {
    if (!answer.ok) throw DeviceError("the device does not answer: " + answer.error);
    return answer;
}

/// Written after all blocks, so it knows them.
bool index_is_newest(const fs::path& folder) {
    std::error_code missing;
    const auto index = fs::last_write_time(folder / "kv-index", missing);
    if (missing) return false;
    for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.path().extension() != ".blocks") continue;
        const auto blocks = fs::last_write_time(entry.path(), missing);
        if (!missing && blocks > index) return false;
    }
    return true;
}

} // namespace

std::string make_api_key() {
    std::array<std::byte, 32> raw{};
    if (!crypto::random(raw)) throw DeviceError("this machine has no random numbers");
    return crypto::hex(raw);
}

std::vector<std::uint32_t> make_prompt(std::size_t tokens) {
    std::random_device random;
    std::vector<std::uint32_t> prompt;
    for (std::size_t i = 0; i < tokens; ++i)
        prompt.push_back(20 + random() % 200); // every vocabulary has these
    return prompt;
}

StoredKv::StoredKv(Target& target, std::string api_key) : target_(target), api_key_(std::move(api_key)) {}

StoredKv::~StoredKv() {
    try {
        (void)remove();
    } catch (const std::exception&) {
        // The device is gone; whoever asks next says so.
    }
}

Completion StoredKv::ask(const std::vector<std::uint32_t>& prompt) const {
    return checked(target_.operator_api().as(api_key_).complete(query_of(prompt)));
}

Completion StoredKv::ask_anew(const Target& target, const std::vector<std::uint32_t>& prompt) {
    return checked(target.operator_api().complete(query_of(prompt)));
}

fs::path StoredKv::tell(const std::vector<std::uint32_t>& prompt) const {
    const Completion answer = ask(prompt);
    // The last token of an answer is not computed any more.
    const std::size_t tokens = (prompt.size() + answer.tokens.size() - 1) / kKvBlock * kKvBlock;
    for (const auto give_up = std::chrono::steady_clock::now() + kSavePatience;
         std::chrono::steady_clock::now() < give_up; std::this_thread::sleep_for(200ms)) {
        for (const Session& session : sessions()) {
            const fs::path file = target_.data_folder() / ("kv-" + session.id + ".blocks");
            if (session.stored_tokens == tokens && fs::exists(file) && index_is_newest(target_.data_folder()))
                return file;
        }
    }
    throw DeviceError("the conversation was not stored");
}

std::vector<StoredKv::Session> StoredKv::sessions() const {
    std::vector<Session> list;
    const Json json = parsed(target_.api().as(api_key_).get(kSessions), "no list of sessions");
    for (const Json& one : json.at("sessions"))
        list.push_back(
            {one.value("id", ""), one.value("state", ""), one.value("stored_tokens", std::uint64_t{0})});
    return list;
}

int StoredKv::remove(const std::string& id) const {
    return target_.api().as(api_key_).remove(kSessions + (id.empty() ? "" : "/" + id)).status;
}

KvCounts kv_counts(const Target& target) {
    const Json stored =
        parsed(target.operator_api().get("/flexserve/status"), "no status").value("stored_conversations", Json());
    if (!stored.is_object()) throw DeviceError("the device stores no conversations");
    KvCounts counts{stored.value("restored_blocks", std::uint64_t{0}), 0,
                    stored.value("indexes_refused", std::uint64_t{0})};
    for (const auto& [cause, blocks] : stored.at("recomputed_blocks").items())
        counts.recomputed += blocks.get<std::uint64_t>();
    return counts;
}

KvFiles read_kv_files(const Target& target) {
    KvFiles files;
    for (const auto& entry : fs::directory_iterator(target.data_folder())) {
        const std::string name = entry.path().filename();
        if (!name.starts_with("kv-")) continue;
        std::ifstream in(entry.path(), std::ios::binary);
        files[name] = {std::istreambuf_iterator<char>(in), {}};
    }
    return files;
}

void write_kv_files(const Target& target, const KvFiles& files) {
    for (const auto& [name, content] : files) {
        std::ofstream out(target.data_folder() / name, std::ios::binary);
        out.write(content.data(), static_cast<std::streamsize>(content.size()));
        out.close();
        if (!out) throw DeviceError("cannot write " + name);
    }
}

} // namespace flex::attack
