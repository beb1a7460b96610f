#include "launcher/machine.h"

#include <cstdio>
#include <cstring>

#include "board.h"

namespace flex::platform {
namespace fs = std::filesystem;

namespace {

std::string hex(std::uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

// A comma ends a value in QEMU's option syntax; doubled, it stands for itself.
std::string escaped(const std::string& value) {
    std::string out;
    for (const char c : value) out.append(c == ',' ? 2 : 1, c);
    return out;
}

std::string loader(const fs::path& file, std::uint64_t address) {
    return "loader,file=" + escaped(file) + ",addr=" + hex(address) + ",force-raw=on";
}

void check_fits(const fs::path& file, std::uint64_t limit) {
    if (fs::file_size(file) > limit)
        throw DeviceError(file.string() + " is larger than the " + std::to_string(limit / kMiB) + " MiB there are for it");
}

} // namespace

void MachineOptions::check() const {
    if (cores < 1 || cores > BOARD_CORES_MAX)
        throw DeviceError("a device has 1 to " + std::to_string(BOARD_CORES_MAX) + " cores, not " + std::to_string(cores));
    if (memory < kGiB || memory > BOARD_DRAM_BYTES_MAX || memory % (2 * kMiB) != 0)
        throw DeviceError("a device has 1G to 16G of memory, in steps of 2M");
    const auto within = [](double value, double most) { return value >= 0 && value <= most; };
    if (npu && !(within(npu->tops, kNpuTopsMax) && within(npu->dram_gbps, kNpuDramGbpsMax) && within(npu->launch_us, kNpuLaunchUsMax)))
        throw DeviceError("the NPU's limits are numbers from 0 (unlimited), not so large");
    firmware.check();
    check_fits(firmware.kernel, BOARD_KERNEL_BYTES_MAX);
    check_fits(firmware.initramfs, BOARD_INITRD_BYTES_MAX);
    if (kernel_command_line.size() >= BOARD_LOADER_INFO_BYTES - BOARD_LOADER_INFO_COMMAND_LINE_OFFSET)
        throw DeviceError("the kernel command line is too long");
}

std::vector<std::string> qemu_arguments(const MachineOptions& options, std::uint16_t https_port, std::uint16_t agent_port) {
    const std::string memory = std::to_string(options.memory / kMiB) + "M";
    // Behind the SMMU means: PCI, and the virtio driver told to use the DMA API. Nothing else that does DMA is used.
    const std::string behind_smmu = ",iommu_platform=on,disable-legacy=on";
    const auto forward = [](std::uint16_t host, std::uint16_t guest) {
        return ",hostfwd=tcp:127.0.0.1:" + std::to_string(host) + "-:" + std::to_string(guest);
    };
    std::vector<std::string> arguments = {
        "qemu-system-aarch64",
        "-name", "flexserve",
        "-no-user-config", "-nodefaults", "-display", "none", "-vga", "none", "-monitor", "none",
        // virt-9.1: later versions force nested translation on; we use stage 2 alone.
        "-machine", "virt-9.1,secure=on,virtualization=on,gic-version=3,iommu=smmuv3,its=off,acpi=off,"
                    "highmem-ecam=off,highmem-mmio=off,memory-backend=ram",
        "-global", "arm-smmuv3.stage=2",
        "-object", "memory-backend-memfd,id=ram,share=on,size=" + memory,
        "-m", memory, "-smp", std::to_string(options.cores),
        // Everything but what is slow to emulate and unused.
        "-cpu", "max,sve=off,sme=off,pauth=off,lpa2=off",
        "-accel", options.counts_instructions ? "tcg,thread=single" : "tcg,thread=multi",
        "-drive", std::string("if=pflash,unit=0,format=raw,file=") + files::kFlash,
        "-device", loader(options.firmware.kernel, BOARD_KERNEL_BASE),
        "-device", loader(options.firmware.initramfs, BOARD_INITRD_BASE),
        "-device", loader(files::kLoaderInfo, BOARD_LOADER_INFO_BASE),
        "-chardev", std::string("socket,id=console,server=on,wait=off,path=") + files::kConsoleSocket +
                    ",logfile=" + files::kConsoleLog + ",logappend=off",
        "-serial", "chardev:console",
        "-chardev", std::string("file,id=secure,path=") + files::kSecureLog,
        "-serial", "chardev:secure",
        "-qmp", std::string("unix:") + files::kQmpSocket + ",server=on,wait=off",
        "-fsdev", std::string("local,id=store,security_model=none,readonly=on,path=") + files::kStore,
        "-device", "virtio-9p-pci,fsdev=store,mount_tag=store" + behind_smmu,
        "-fsdev", std::string("local,id=data,security_model=none,path=") + files::kData,
        "-device", "virtio-9p-pci,fsdev=data,mount_tag=data" + behind_smmu,
        "-netdev", "user,id=net" + forward(https_port, kGuestHttpsPort) + forward(agent_port, kGuestAgentPort),
        "-device", "virtio-net-pci,netdev=net,romfile=" + behind_smmu,
    };
    if (options.npu) {
        char slot[8];
        std::snprintf(slot, sizeof slot, "%x.0", BOARD_NPU_SLOT);
        arguments.insert(arguments.end(),
                         {"-chardev", std::string("socket,id=npu,path=") + files::kNpuSocket,
                          // Modern virtio only: there is no legacy to disable.
                          "-device", std::string("vhost-user-snd-pci,chardev=npu,id=npu,iommu_platform=on,addr=") + slot});
    }
    if (options.attack_devices)
        arguments.insert(arguments.end(), {"-device", "e1000,romfile=", "-device", "virtio-rng-pci" + behind_smmu});
    if (options.counts_instructions) arguments.insert(arguments.end(), {"-icount", "shift=1,sleep=off"});
    if (options.stop_on_reset) arguments.emplace_back("-no-reboot");
    arguments.insert(arguments.end(), options.extra_arguments.begin(), options.extra_arguments.end());
    return arguments;
}

std::vector<std::string> npu_arguments(const NpuOptions& options) {
    std::vector<std::string> arguments = {npu_program().string(), "--socket", files::kNpuSocket};
    const auto limit = [&](const char* name, double value) {
        if (value == 0) return;
        char text[32];
        std::snprintf(text, sizeof text, "%g", value);
        arguments.insert(arguments.end(), {name, text});
    };
    limit("--tops", options.tops);
    limit("--dram-gbps", options.dram_gbps);
    limit("--launch-us", options.launch_us);
    return arguments;
}

std::string loader_info(const MachineOptions& options) {
    std::string page(BOARD_LOADER_INFO_BYTES, '\0');
    // Little-endian, as host (x86-64 or arm64) and device are.
    const std::uint64_t words[3] = {BOARD_LOADER_INFO_MAGIC, fs::file_size(options.firmware.kernel),
                                    fs::file_size(options.firmware.initramfs)};
    static_assert(sizeof words == BOARD_LOADER_INFO_COMMAND_LINE_OFFSET);
    std::memcpy(page.data(), words, sizeof words);
    std::memcpy(page.data() + sizeof words, options.kernel_command_line.data(), options.kernel_command_line.size());
    return page;
}

} // namespace flex::platform
