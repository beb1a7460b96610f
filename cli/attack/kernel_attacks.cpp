// What the hostile kernel module tries (linux/attack): each command of it is an attack here, under the same name.
#include <thread>

#include "cli/attack/attack.h"
#include "cli/attack/target.h"

namespace flex::attack {
namespace {

constexpr std::chrono::minutes kPatience{3};

Attack kernel(const char* name, int threat, const char* does, bool brief = false) {
    return {name, threat, Kind::kKernel, does,
            [command = std::string(name)](Target& target) { return target.kernel_outcome(command, kPatience); }, brief};
}

/// One that needs the PCI devices which `--attack-devices` adds: a network card in loopback, which copies memory
/// wherever it is told, and a spare virtio device.
Attack device(const char* name, int threat, const char* does, bool brief = false) {
    Attack attack = kernel(name, threat, does, brief);
    attack.run = [run = attack.run](Target& target) {
        if (!target.has_attack_devices()) return skipped("the device has not the PCI devices for this: start it with flexserve device up --attack-devices");
        return run(target);
    };
    return attack;
}

/// Doctors the answers that tell the secure world which frames it has got; each time a model that is not in memory is asked for.
Outcome false_frames(Target& target, const std::vector<std::string>& modes) {
    const std::string name = "attack-frames";
    const std::uint64_t starts = target.stat("tos/program_starts");
    std::string last;
    for (const std::string& mode : modes) {
        target.seal_as(name);
        if (!target.drop_models()) return failed("the framework does not let go of the models it has");
        const Outcome armed = target.kernel_outcome("answer " + mode);
        if (armed.verdict != Verdict::kBlocked) return armed;
        Query query = target.reference_query(name);
        query.timeout = std::chrono::seconds(20);
        const Completion answer = target.api().complete(query);
        const Outcome outcome = target.kernel_outcome("answer-result");
        if (outcome.verdict != Verdict::kBlocked) return {outcome.verdict, mode + ": " + outcome.how};
        if (answer.ok && !answer.same_as(target.reference())) return breach(mode + ": the model answered \"" + answer.text + "\"");
        if (target.stat("tos/program_starts") != starts) return breach(mode + ": the secure program ended");
        last = outcome.how;
    }
    target.remove_package(name);
    return blocked(std::to_string(modes.size()) + " kinds of false answers; " + last);
}

Attack frames(const char* name, const char* does, std::vector<std::string> modes) {
    return {name, 13, Kind::kKernel, does, [modes = std::move(modes)](Target& target) { return false_frames(target, modes); }};
}

/// START is only looked at closely while no program runs: it is stopped first, and started again by a new agent.
Outcome shared_area(Target& target) {
    target.exec("echo stop > /sys/class/misc/flexserve/program");
    for (int i = 0; i < 50 && target.exec("cat /sys/class/misc/flexserve/program").starts_with("stop") == false; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const Outcome outcome = target.kernel_outcome("shared-area");
    try {
        target.exec("killall flex-agentd", std::chrono::seconds(5)); // init starts another, which starts the program
    } catch (const platform::DeviceError&) {
        // The agent carried this very connection.
    }
    return outcome;
}

} // namespace

std::vector<Attack> kernel_attacks() {
    return {
        kernel("cpu-read", 1, "reads lent frames and a protected canary through every kind of mapping", true),
        kernel("cpu-write", 1, "writes to lent frames and a protected canary", true),
        kernel("cpu-execute", 1, "executes code in a protected frame"),
        kernel("read-monitor", 2, "reads the monitor's memory", true),
        kernel("write-monitor", 2, "writes to the monitor's memory, the frame table among it"),
        kernel("read-tos", 3, "reads the trusted OS's memory", true),
        kernel("write-tos", 3, "writes to the trusted OS's memory"),
        kernel("read-firmware", 3, "reads the firmware's secure RAM"),
        kernel("read-flash", 3, "reads the secure flash, the device key among it"),
        kernel("secure-uart", 3, "reads and writes the secure UART"),
        kernel("list-twice", 10, "protects a frame that is protected already"),
        kernel("list-overlap", 10, "protects lists that name a frame twice"),
        kernel("list-address", 10, "protects monitor frames, devices, secure memory and addresses that wrap around"),
        kernel("list-order", 10, "protects ranges that are misaligned, too large or have reserved bits"),
        kernel("list-count", 10, "gives lists of 0, too many and 2^63 ranges"),
        kernel("list-placement", 14, "gives lists that lie in Flex-Mem, the monitor, secure memory and devices"),
        kernel("list-flip", 11, "changes a list from a second core while the monitor reads it"),
        kernel("recall-flex", 12, "recalls a frame that was protected but never released"),
        kernel("recall-adopted", 12, "recalls frames that the secure world uses", true),
        kernel("forge-release", 12, "makes the monitor take a frame for released"),
        device("dma-read", 4, "has a PCI device copy protected memory out", true),
        device("dma-write", 4, "has a PCI device copy something into protected memory"),
        device("dma-regions", 4, "has a PCI device copy the monitor's memory, secure memory and devices out"),
        device("virtio-write", 5, "gives a virtio device a buffer and a used ring in protected memory"),
        device("virtio-read", 5, "gives a virtio device descriptors and an avail ring in protected memory"),
        kernel("fw-cfg", 6, "has fw_cfg do DMA, which the SMMU does not see"),
        kernel("virtio-mmio", 6, "looks for a virtio-mmio device, whose DMA the SMMU does not see"),
        kernel("gic-lpi", 7, "places the interrupt controller's LPI tables in protected memory"),
        device("pci-bars", 9, "lays one PCI device over another, and over what is no PCI window"),
        kernel("npu-registers", 37, "reaches for the NPU's registers and configuration while the secure world has it"),
        device("npu-bars", 37, "lays a device over the NPU, and the NPU over a device, while the secure world has it"),
        kernel("npu-memory", 38, "gives the NPU jobs that read and write Flex-Mem, the monitor, secure memory and devices", true),
        kernel("npu-residue", 39, "looks in the NPU for what was there before it changed hands: registers, SRAM, queues"),
        kernel("npu-running", 39, "leaves jobs running and waiting in the NPU while it changes hands"),
        kernel("npu-calls", 40, "gives, takes and recalls the NPU in every state, from two cores"),
        kernel("npu-switches", 40, "sends the NPU there and back 100 times"),
        kernel("move-frame", 12, "has the trusted OS move protected content to where it can be read", true),
        kernel("smmu", 8, "reaches for the SMMU's registers"),
        // First, with "adopted" first: false answers leave frames behind that are lent but taken by nobody, and handing those over once is
        // no attack.
        frames("alloc-twice", "hands the trusted OS a frame that it has already", {"adopted", "duplicate", "part"}),
        frames("alloc-foreign", "hands the trusted OS frames that are not protected: Linux' own, the monitor's, secure RAM, a device",
               {"unprotected", "monitor", "secure", "device"}),
        frames("alloc-malformed", "hands the trusted OS lists of frames that are malformed",
               {"wrap", "order", "bits", "more-than-fits", "huge-count", "odd-error", "short-data", "long-data"}),
        kernel("completions", 15, "lends a core with forged completions of RPCs that are not out"),
        kernel("boot-calls", 19, "calls what only the monitor may: BOOT with a forged frame table, QUIESCE"),
        kernel("calls", 19, "makes 100000 SMCs and HVCs with all kinds of numbers and random arguments"),
        {"shared-area", 14, Kind::kKernel, "names Flex-Mem, the monitor and secure memory as the area for RPC", shared_area},
    };
}

} // namespace flex::attack
