#include "support/pressure.h"

#include <array>
#include <fstream>
#include <map>
#include <sstream>

#include "launcher/paths.h"
#include "support/native_server.h"

namespace flex::test {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using attack::Completion;
using attack::Query;
using attack::Target;
using Clock = std::chrono::steady_clock;
using platform::DeviceError;

namespace {

/// By way of the folder that the device shares with this machine; a program starts at once in Linux' own
/// memory.
void bring(Target& target, const fs::path& file, const std::string& folder) {
    if (!fs::exists(file))
        throw DeviceError(file.string() + " is missing: build with platform/qemu-virt/setup/build.sh test");
    const std::string name = file.filename();
    fs::copy_file(file, target.data_folder() / name, fs::copy_options::overwrite_existing);
    target.exec("mkdir -p " + folder + " && cp /data/" + name + " " + folder + "/");
    fs::remove(target.data_folder() / name);
}

} // namespace

// ---- what must hold ----

FrameCount count_frames(Target& target) {
    std::istringstream said(
        target.exec("cd /sys/class/misc/flexserve/monitor; cat frames_reserved frames_normal frames_shared "
                    "frames_claimed frames_flex frames_adopted frames_released ../lent_bytes"));
    std::array<std::uint64_t, 8> n{};
    for (std::uint64_t& number : n)
        if (!(said >> number)) throw DeviceError("the driver does not tell of the frames: " + said.str());
    return {.all = n[0] + n[1] + n[2] + n[3] + n[4] + n[5] + n[6],
            .linux_ = n[0] + n[1] + n[2],
            .lent = n[7] / 4096};
}

std::string lost_frames(Target& target, std::uint64_t all, std::chrono::seconds patience) {
    FrameCount count;
    const auto give_up = Clock::now() + patience;
    do {
        count = count_frames(target);
        if (count.adds_up() && (all == 0 || count.all == all)) return {};
        std::this_thread::sleep_for(200ms);
    } while (Clock::now() < give_up);
    return "of " + std::to_string(count.all) + " frames " + std::to_string(count.linux_) +
           " are Linux' and " + std::to_string(count.lent) + " lent";
}

std::string kernel_complaints(const std::string& log) {
    std::istringstream lines(log);
    std::string found;
    for (std::string line; std::getline(lines, line);)
        for (const char* sign : {"WARNING:", "BUG:", "Oops", "Bad page", "bad page", "Unable to handle",
                                 "synchronous external abort", "SError", "Kernel panic", "INFO: task",
                                 "rcu: INFO", "soft lockup", "flexserve: given back", "flexserve: recall of"})
            if (line.find(sign) != std::string::npos) {
                found += line + "\n";
                break;
            }
    return found;
}

// ---- flex-hog ----

MemoryHog::MemoryHog(Target& target, std::uint64_t seed, const std::string& leave) : target_(target) {
    bring(target_, platform::repository() / "build/device/linux/flex-hog", "/run");
    target_.exec("/run/flex-hog " + std::to_string(seed) + " " + leave +
                 " </dev/null >/run/flex-hog.said 2>&1 &");
    running_ = true;
}

MemoryHog::~MemoryHog() {
    try {
        if (running_) static_cast<void>(stop());
    } catch (const DeviceError&) {
        // The device is gone, and the hog with it.
    }
}

MemoryHog::Counts MemoryHog::stop() {
    running_ = false;
    // Both of its processes; again, for a child that was just being born.
    const std::string said = target_.exec("n=0; while killall flex-hog 2>/dev/null && [ $n -lt 300 ]; do "
                                          "n=$((n+1)); sleep 0.2; done; cat /run/flex-hog.said",
                                          120s);
    std::istringstream words(said);
    Counts counts;
    std::string pages, wrong, killed;
    if (!(words >> pages >> counts.pages >> wrong >> counts.wrong >> killed >> counts.killed))
        counts.error = "flex-hog says: " + said;
    return counts;
}

// ---- SQLite ----

namespace {

constexpr unsigned kRowsInBatch = 200, kBatchesKept = 50;
constexpr std::uint64_t kModulus = 1000003;

/// Batch @; replay() does the same here.
constexpr const char* kBatch = R"(PRAGMA journal_mode = wal;
CREATE TABLE IF NOT EXISTS line(id INTEGER PRIMARY KEY, value INTEGER, text TEXT);
CREATE INDEX IF NOT EXISTS by_value ON line(value);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT @ * 200 UNION ALL SELECT i + 1 FROM n WHERE i < @ * 200 + 199)
INSERT INTO line SELECT i, i * 7919 % 1000003, '' FROM n;
UPDATE line SET value = (value * 31 + @) % 1000003 WHERE id % 7 = @ % 7;
UPDATE line SET text = replace(hex(zeroblob(32)), '00', printf('%08x', value)) WHERE id % 5 = @ % 5;
DELETE FROM line WHERE id % 11 = @ % 11 OR id < (@ - 50) * 200;
COMMIT;
)";

constexpr const char* kScript = R"sh(cd /run/sqlite; n=0
while [ ! -e stop ]; do
    if ! sed "s/@/$n/g" batch.sql | ./ld-linux-aarch64.so.1 --library-path . ./sqlite3 -bail load.db >said 2>&1
    then
        echo "batch $n: $(cat said)" >failed
        break
    fi
    n=$((n+1)); echo $n >done.new; mv done.new done
done
touch ended
)sh";

struct Line {
    std::uint64_t value = 0;
    std::optional<std::uint64_t> text; ///< the value that is written in it
};

std::map<std::uint64_t, Line> replay(unsigned batches) {
    std::map<std::uint64_t, Line> lines;
    for (std::uint64_t batch = 0; batch < batches; ++batch) {
        for (std::uint64_t id = batch * kRowsInBatch; id < (batch + 1) * kRowsInBatch; ++id)
            lines[id].value = id * 7919 % kModulus;
        for (auto& [id, line] : lines) {
            if (id % 7 == batch % 7) line.value = (line.value * 31 + batch) % kModulus;
            if (id % 5 == batch % 5) line.text = line.value;
        }
        std::erase_if(lines, [&](const auto& one) {
            return one.first % 11 == batch % 11 ||
                   one.first + kBatchesKept * kRowsInBatch < batch * kRowsInBatch;
        });
    }
    return lines;
}

/// As the shell prints a row.
std::string printed(std::uint64_t id, const Line& line) {
    std::string text;
    if (line.text) {
        char hex[9];
        std::snprintf(hex, sizeof hex, "%08x", static_cast<unsigned>(*line.text));
        for (int i = 0; i < 32; ++i) text += hex;
    }
    return std::to_string(id) + "|" + std::to_string(line.value) + "|" + text;
}

} // namespace

SqliteLoad::SqliteLoad(Target& target) : target_(target) {
    const fs::path programs = platform::repository() / "build/target/sqlite";
    if (!fs::exists(programs))
        throw DeviceError(programs.string() + " is missing: run platform/qemu-virt/setup/target.sh");
    target_.exec("rm -rf /run/sqlite");
    for (const fs::directory_entry& entry : fs::directory_iterator(programs))
        bring(target_, entry.path(), "/run/sqlite");
    std::ofstream(target_.data_folder() / "batch.sql") << kBatch;
    std::ofstream(target_.data_folder() / "load.sh") << kScript;
    target_.exec("mv /data/batch.sql /data/load.sh /run/sqlite/; chmod +x /run/sqlite/sqlite3 "
                 "/run/sqlite/ld*; sh /run/sqlite/load.sh </dev/null >/dev/null 2>&1 &");
    running_ = true;
}

SqliteLoad::~SqliteLoad() {
    try {
        if (running_) static_cast<void>(stop());
    } catch (const DeviceError&) {
        // The device is gone.
    }
}

std::string SqliteLoad::stop() {
    running_ = false;
    const std::string shell = "./ld-linux-aarch64.so.1 --library-path . ./sqlite3 load.db ";
    const std::string said = target_.exec("cd /run/sqlite; touch stop; n=0; while [ ! -e ended ] && [ $n -lt "
                                          "300 ]; do n=$((n+1)); sleep 0.2; done; "
                                          "cat failed 2>/dev/null; cat done; " +
                                              shell + "'PRAGMA integrity_check' 2>&1; " + shell +
                                              "'SELECT * FROM line ORDER BY id' >/data/sqlite.rows; echo $?",
                                          180s);
    batches_ = 0;
    std::istringstream words(said);
    std::string sound, code;
    if (!(words >> batches_ >> sound >> code) || sound != "ok" || code != "0") return "SQLite says: " + said;
    std::ifstream rows(target_.data_folder() / "sqlite.rows");
    std::string row;
    for (const auto& [id, line] : replay(batches_)) {
        if (!std::getline(rows, row)) return "SQLite has lost rows from " + std::to_string(id) + " on";
        if (row != printed(id, line))
            return "SQLite has \"" + row + "\" where it should have \"" + printed(id, line) + "\"";
    }
    if (std::getline(rows, row)) return "SQLite has rows too many: \"" + row + "\"";
    rows.close();
    fs::remove(target_.data_folder() / "sqlite.rows");
    target_.exec("rm -rf /run/sqlite");
    return {};
}

// ---- clients ----

namespace {

constexpr std::uintmax_t kLargeModel = 16 << 20;

std::vector<Query> queries_for(const std::string& model) {
    std::string letter = "Dear reader,";
    for (int i = 1; i < 5; ++i)
        letter += " the frame number " + std::to_string(i * i) + " was lent, used and given back;";
    std::vector<Query> all;
    for (const auto& [prompt, tokens] : {std::pair<std::string, unsigned>{"What is FlexServe?", 24},
                                         {"Who may read Flex-Mem?", 48},
                                         {letter, 12}})
        all.push_back({.model = model,
                       .prompt = prompt,
                       .prompt_tokens = {},
                       .chat = true,
                       .max_tokens = tokens,
                       .extra = {},
                       .timeout = 180s});
    return all;
}

} // namespace

Crowd::Crowd(Target& target, const fs::path& home, const std::vector<Model>& models, unsigned clients,
             std::uint64_t seed)
    : target_(target), models_(models) {
    for (const Model& model : models) {
        if (model.name != Target::kModel)
            static_cast<void>(attack::seal_for(
                target.device(), {.gguf = model.gguf, .name = model.name, .version = 0, .file = {}}));
        const NativeServer native(home / ("native-" + model.name), model.name, model.gguf);
        for (const Query& query : queries_for(model.name)) {
            questions_.push_back(
                {query, native.api().complete(query), fs::file_size(model.gguf) > kLargeModel});
            if (!questions_.back().reference.ok)
                throw DeviceError("no native answer: " + questions_.back().reference.error);
        }
    }
    for (unsigned i = 0; i < clients; ++i) clients_.emplace_back([this, seed, i] { ask_on(seed + i); });
}

Crowd::~Crowd() {
    static_cast<void>(stop());
    for (const Model& model : models_)
        if (model.name != Target::kModel) target_.remove_package(model.name);
}

Crowd::Counts Crowd::counts() const {
    const std::lock_guard lock(mutex_);
    return counts_;
}

bool Crowd::pause() {
    const std::lock_guard lock(mutex_);
    paused_ = true;
    return asking_ == 0;
}

void Crowd::resume() {
    const std::lock_guard lock(mutex_);
    paused_ = false;
    changed_.notify_all();
}

Crowd::Counts Crowd::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        changed_.notify_all();
    }
    for (std::thread& client : clients_) client.join();
    clients_.clear();
    return counts_;
}

void Crowd::ask_on(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const attack::ApiClient api = target_.api();
    for (std::unique_lock lock(mutex_);;) {
        changed_.wait(lock, [&] { return stopping_ || !paused_; });
        if (stopping_) return;
        ++asking_;
        lock.unlock();
        ask(api, questions_[random() % questions_.size()], random);
        lock.lock();
        --asking_;
        changed_.notify_all();
    }
}

void Crowd::ask(const attack::ApiClient& api, const Question& question, std::mt19937_64& random) {
    Query query = question.query;
    query.extra = random() % 4 == 0 && !question.large ? R"("npu":"off")" : R"("npu":"auto")";
    const bool streams = random() % 2 == 0;
    const std::size_t hangs_up_after = streams && random() % 8 == 0 ? 1 + random() % 40 : SIZE_MAX; // bytes
    std::string came;
    const auto begin = Clock::now();
    const Completion answer = streams ? api.stream(query,
                                                   [&](std::string_view text) {
                                                       came += text;
                                                       return came.size() < hangs_up_after;
                                                   })
                                      : api.complete(query);
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);

    const std::lock_guard lock(mutex_);
    ++counts_.asked;
    if (answer.same_as(question.reference)) {
        ++counts_.right;
        counts_.longest = std::max(counts_.longest, took);
    } else if (came.size() >= hangs_up_after && question.reference.text.starts_with(came)) {
        ++counts_.hung_up;
    } else if (!answer.ok && came.empty() && answer.status == 503 &&
               answer.error.find("memory") != std::string::npos) {
        ++counts_.refused;
    } else if (++counts_.wrong == 1) {
        counts_.first_wrong = query.model + " on \"" + query.prompt.substr(0, 20) + "\"" +
                              (streams ? ", streamed" : "") + " after " + std::to_string(took.count()) +
                              " ms: status " + std::to_string(answer.status) + ", " + answer.error + ", \"" +
                              (streams ? came : answer.text) + "\" where \"" + question.reference.text +
                              "\" is right";
    }
}

} // namespace flex::test
