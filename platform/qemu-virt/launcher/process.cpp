#include "launcher/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "launcher/file_descriptor.h"

namespace flex::platform {
namespace fs = std::filesystem;

namespace {

// Fields 3 (state) and 22 (starttime) of /proc/PID/stat, proc(5). The name in field 2 may hold anything but ends at the last ')'.
struct Stat {
    char state = 0;
    std::uint64_t start_time = 0;
};

std::optional<Stat> process_stat(pid_t pid) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    if (!std::getline(in, line)) return std::nullopt;
    const std::size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) return std::nullopt;
    std::istringstream fields(line.substr(name_end + 1));
    Stat stat;
    std::string skipped;
    fields >> stat.state;
    for (int field = 4; field <= 21; ++field) fields >> skipped;
    fields >> stat.start_time;
    return fields ? std::optional(stat) : std::nullopt;
}

} // namespace

bool is_running(const ProcessId& id) {
    if (id.pid <= 0) return false;
    // Our own child stays a zombie until somebody asks for it.
    ::waitpid(id.pid, nullptr, WNOHANG);
    const std::optional<Stat> stat = process_stat(id.pid);
    return stat && stat->state != 'Z' && stat->state != 'X' && stat->start_time == id.start_time;
}

ProcessId spawn_detached(const std::vector<std::string>& arguments, const fs::path& folder, const std::string& log,
                         const std::string& missing, Lifetime lifetime) {
    std::vector<char*> words;
    for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
    words.push_back(nullptr);
    const std::string log_path = folder / log;

    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw DeviceError(std::string("cannot make a pipe: ") + std::strerror(errno));
    const FileDescriptor failure_in(ends[0]);
    FileDescriptor failure_out(ends[1]);
    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child < 0) throw DeviceError(std::string("cannot start a process: ") + std::strerror(errno));
    if (child == 0) {
        // Only async-signal-safe calls until exec.
        ::setsid();
        const int input = ::open("/dev/null", O_RDONLY);
        const int output = ::open(log_path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0644);
        int error = 0;
        if (lifetime == Lifetime::kEndsWithUs) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() != parent) ::_exit(127); // it ended before we asked
        }
        if (input < 0 || output < 0 || ::dup2(input, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(output, 2) < 0 ||
            ::chdir(folder.c_str()) != 0 || ::execvp(words[0], words.data()) != 0)
            error = errno;
        [[maybe_unused]] const ssize_t written = ::write(failure_out.get(), &error, sizeof error);
        ::_exit(127);
    }
    failure_out = FileDescriptor();
    int error = 0;
    if (::read(failure_in.get(), &error, sizeof error) == static_cast<ssize_t>(sizeof error)) {
        ::waitpid(child, nullptr, 0);
        throw DeviceError(error == ENOENT ? missing : "cannot run " + arguments[0] + ": " + std::strerror(error));
    }
    const std::optional<Stat> stat = process_stat(child);
    return {.pid = child, .start_time = stat ? stat->start_time : 0};
}

bool wait_for_end(const ProcessId& id, std::chrono::milliseconds patience) {
    const auto give_up = std::chrono::steady_clock::now() + patience;
    while (is_running(id)) {
        if (std::chrono::steady_clock::now() >= give_up) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return true;
}

void end_process(const ProcessId& id, std::chrono::milliseconds patience) {
    if (!is_running(id)) return;
    ::kill(id.pid, SIGTERM);
    if (wait_for_end(id, patience)) return;
    ::kill(id.pid, SIGKILL);
    wait_for_end(id, std::chrono::seconds(3));
}

bool is_listening(const ProcessId& id) {
    std::set<std::string> sockets; // inode numbers
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc/" + std::to_string(id.pid) + "/fd", error)) {
        const std::string target = fs::read_symlink(entry.path(), error).string(); // "socket:[INODE]"
        if (target.starts_with("socket:[")) sockets.insert(target.substr(8, target.size() - 9));
    }
    // Num: RefCount Protocol Flags Type State Inode Path, proc(5); __SO_ACCEPTCON is 0x10000.
    std::ifstream in("/proc/net/unix");
    for (std::string line; std::getline(in, line);) {
        std::istringstream fields(line);
        std::string number, references, protocol, flags, type, state, inode;
        if (fields >> number >> references >> protocol >> flags >> type >> state >> inode && flags == "00010000" &&
            sockets.count(inode) != 0)
            return true;
    }
    return false;
}

} // namespace flex::platform
