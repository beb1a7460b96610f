#include "cli/doctor.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/output.h"
#include "launcher/paths.h"

namespace flex::cli {

// The checks are a shell script, because they must work before this program can be built; there is one copy of them.
void register_doctor(CLI::App& app) {
    app.add_subcommand("doctor", "what is missing on this machine, and how to mend it")->callback([] {
        const std::string script = platform::repository() / "platform/qemu-virt/setup/doctor.sh";
        const char* option = json_wanted() ? "--json" : nullptr;
        ::execl(script.c_str(), script.c_str(), option, nullptr);
        throw platform::DeviceError("cannot run " + script + ": " + std::strerror(errno));
    });
}

} // namespace flex::cli
