// flexserve-npu: the NPU as a process beside QEMU.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "npu/vhost_user/back_end.h"

namespace {

using flex::npu::vhost_user::Fd;

/// How long somebody who starts us may take to start QEMU.
constexpr int kPatienceMs = 60'000;

Fd accept_one(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        std::fprintf(stderr, "flexserve-npu: the path of the socket is longer than %zu characters\n",
                     sizeof address.sun_path - 1);
        return Fd();
    }
    path.copy(address.sun_path, path.size());
    const Fd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ::unlink(path.c_str()); // of one that ended
    if (!listening.valid() ||
        bind(listening.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        listen(listening.get(), 1) != 0) {
        std::perror(("flexserve-npu: " + path).c_str());
        return Fd();
    }
    pollfd waiting{listening.get(), POLLIN, 0};
    Fd connection;
    if (poll(&waiting, 1, kPatienceMs) == 1)
        connection = Fd(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ::unlink(path.c_str());
    if (!connection.valid()) std::fprintf(stderr, "flexserve-npu: nobody connected to %s\n", path.c_str());
    return connection;
}

} // namespace

int main(int count, char** arguments) {
    CLI::App app(
        "The NPU of the device: a vhost-user back end that QEMU connects to. Serves one QEMU, then ends.");
    std::string path;
    double tops = 0, gigabytes = 0, launch_us = 0;
    flex::npu::model::DeviceOptions options;
    app.add_option("--socket", path, "where to listen")->required();
    app.add_option("--tops", tops,
                   "int8 operations it can do, in 10^12 a second (default: what the host can)")
        ->check(CLI::Range(0.0, 8000.0));
    app.add_option("--dram-gbps", gigabytes, "memory bandwidth in GB/s (default: what the host has)")
        ->check(CLI::Range(0.0, 4000.0));
    app.add_option("--launch-us", launch_us, "what starting a job costs")->check(CLI::Range(0.0, 1e6));
    app.add_option("--threads", options.cores, "cores of the NPU, threads of the host")
        ->check(CLI::Range(1, 64));
    CLI11_PARSE(app, count, arguments);
    // A limit that rounds to 0 must not become "no limit". An operation is a multiplication or an addition.
    const auto limit = [](double value) {
        return static_cast<std::uint32_t>(value > 0 ? std::max(value, 1.0) : 0);
    };
    options.performance = {limit(tops * 5e5), limit(gigabytes * 1e3), limit(launch_us * 1e3)};

    Fd connection = accept_one(path);
    if (!connection.valid()) return 1;
    flex::npu::vhost_user::BackEnd back_end(std::move(connection), *flex::engine::select_kernels(), options);
    back_end.serve();
    return 0;
}
