/*
 * The NPU from S-EL0 without the framework's driver: registers, one job at a time on queue 0 (abi/npu.h;
 * Virtio 1.2, 2.7 and 4.1.4.3), in Flex-Mem.
 */
#include "npu_checks.hpp"

#include "abi/npu.h"
#include "abi/syscall.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace {

using namespace std::chrono_literals;

constexpr uint64_t kPage = 4096;
constexpr unsigned kQueues = 4, kQueueSize = 4;
constexpr uint32_t kMark = 0x5ec2e700;

void check(const char* name, bool good) { std::printf("%s: %s\n", name, good ? "good" : "BAD"); }

template <class... Args> long flex(long number, Args... args) {
    return syscall(number, args...) < 0 ? -errno : 0;
}

template <class T> T read_at(uint64_t address) { return *reinterpret_cast<volatile T*>(address); }
template <class T> void write_at(uint64_t address, T value) {
    *reinterpret_cast<volatile T*>(address) = value;
}

class Npu {
public:
    /* Flex-Mem for rings (a page a queue), table and data; once. */
    bool prepare() {
        memory_ = syscall(FLEX_SYS_MEM_ALLOC, 16 * kPage);
        return memory_ > 0 && flex(FLEX_SYS_MEM_ADDRESSES, memory_, 16, bus_) == 0;
    }
    long acquire(uint64_t ms = 2000) { return flex(FLEX_SYS_NPU_ACQUIRE, ms, &grant_); }
    /* The normal world may need it for a while. */
    long acquire_patiently() {
        long result = -EBUSY;
        for (int i = 0; i < 200 && result == -EBUSY; i++) {
            if (i > 0) std::this_thread::sleep_for(50ms);
            result = acquire();
        }
        return result;
    }
    static long release() { return flex(FLEX_SYS_NPU_RELEASE); }
    static long wait(uint64_t ns) {
        const long result = syscall(FLEX_SYS_NPU_WAIT, ns, FLEX_NPU_WAIT_ANY);
        return result < 0 ? -errno : result;
    }

    uint32_t reg(uint32_t number) { return access(number); }
    void set(uint32_t number, uint32_t value) {
        write_at<uint32_t>(words() + FLEX_NPU_CONFIG_DATA, value);
        access(FLEX_NPU_ACCESS_WRITE | number);
    }
    uint8_t status() { return read_at<uint8_t>(common() + 0x14); }
    uint64_t registers() const { return grant_.registers; }
    uint64_t data() const { return memory_ + kData * kPage; }

    bool start() {
        for (const uint8_t status : {0, 1, 3}) write_at<uint8_t>(common() + 0x14, status);
        write_at<uint32_t>(common() + 0x08, 1);
        write_at<uint32_t>(common() + 0x0c, 3); /* VERSION_1, ACCESS_PLATFORM */
        write_at<uint8_t>(common() + 0x14, 11);
        if ((status() & 8) == 0) return false;
        for (uint16_t q = 0; q < kQueues; q++) {
            std::memset(reinterpret_cast<void*>(memory_ + q * kPage), 0, kPage);
            write_at<uint16_t>(common() + 0x16, q);
            write_at<uint16_t>(common() + 0x18, kQueueSize);
            for (const auto& [where, offset] : {std::pair{0x20, 0}, {0x28, 256}, {0x30, 512}}) {
                write_at<uint32_t>(common() + where, static_cast<uint32_t>(bus_[q] + offset));
                write_at<uint32_t>(common() + where + 4, static_cast<uint32_t>((bus_[q] + offset) >> 32));
            }
            write_at<uint16_t>(common() + 0x1c, 1);
        }
        write_at<uint8_t>(common() + 0x14, 15);
        set(FLEX_NPU_REG_POWER, 1);
        given_ = 0;
        return true;
    }

    /* A page at any bus address, and one command for it. */
    void submit(uint64_t address, flex_npu_command command) {
        auto* page = reinterpret_cast<unsigned char*>(memory_);
        *reinterpret_cast<uint64_t*>(memory_ + kTable * kPage) = address | FLEX_NPU_ENTRY_BLOCK;
        struct {
            flex_npu_job head;
            flex_npu_region region;
            flex_npu_command command;
        } job = {{FLEX_NPU_JOB_MAGIC, FLEX_NPU_VERSION, 1, 1, 7, 0}, {bus_[kTable], kPage}, command};
        std::memcpy(page + 2048, &job, sizeof job);
        std::memset(page + 1024, 0xff, sizeof(flex_npu_result));
        const uint64_t chain[4] = {bus_[0] + 2048, sizeof job | uint64_t{1} << 32 | uint64_t{1} << 48,
                                   bus_[0] + 1024, sizeof(flex_npu_result) | uint64_t{2} << 32};
        std::memcpy(page, chain, sizeof chain);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        write_at<uint16_t>(memory_ + 256 + 2, ++given_);
        asm volatile("dsb sy" ::: "memory");
        write_at<uint16_t>(common() + 0x16, 0);
        write_at<uint16_t>(grant_.registers + grant_.notify +
                               read_at<uint16_t>(common() + 0x1e) * grant_.notify_multiplier,
                           0);
    }
    /* Its status; ~0: it did not end. */
    uint32_t result(std::chrono::milliseconds patience = 3000ms) {
        for (const auto end = std::chrono::steady_clock::now() + patience;
             std::chrono::steady_clock::now() < end;) {
            if (read_at<uint16_t>(memory_ + 512 + 2) == given_) return read_at<uint32_t>(memory_ + 1024);
            std::this_thread::sleep_for(200us);
        }
        return ~uint32_t{0};
    }
    uint32_t signal(uint64_t address, uint64_t value) {
        flex_npu_command command = {};
        command.op = FLEX_NPU_SIGNAL;
        command.u.fence.scalar64 = value;
        submit(address, command);
        return result();
    }
    uint32_t signal_data(uint64_t value) { return signal(bus_[kData], value); }
    void start_waiting() {
        flex_npu_command command = {};
        command.op = FLEX_NPU_WAIT;
        command.count = FLEX_NPU_WAIT_US_MAX;
        command.u.fence.scalar64 = ~uint64_t{0};
        submit(bus_[kData], command);
    }
    bool is_empty() {
        uint32_t found = reg(FLEX_NPU_REG_JOBS) | reg(FLEX_NPU_REG_FAULTS) | status();
        for (uint32_t i = 0; i < FLEX_NPU_SCRATCH_REGISTERS; i++) found |= reg(FLEX_NPU_REG_SCRATCH + i);
        for (uint32_t offset = 0; offset < 65536; offset += 2048) {
            set(FLEX_NPU_REG_SRAM_ADDRESS, offset);
            found |= reg(FLEX_NPU_REG_SRAM_DATA);
        }
        return found == 0;
    }
    void leave_canary() {
        set(FLEX_NPU_REG_SCRATCH, kMark);
        for (uint32_t offset = 0; offset < 65536; offset += 2048) {
            set(FLEX_NPU_REG_SRAM_ADDRESS, offset);
            set(FLEX_NPU_REG_SRAM_DATA, kMark + offset);
        }
    }

private:
    static constexpr uint64_t kTable = 4, kData = 5;
    uint64_t common() const { return grant_.registers + grant_.common; }
    uint64_t words() const { return grant_.registers + grant_.device; }
    uint32_t access(uint32_t word) {
        const uint32_t sequence = (read_at<uint32_t>(words() + FLEX_NPU_CONFIG_ACCESS) >> 16) + 1;
        write_at<uint32_t>(words() + FLEX_NPU_CONFIG_ACCESS, word | FLEX_NPU_ACCESS(sequence, 0));
        return read_at<uint32_t>(words() + FLEX_NPU_CONFIG_VALUE);
    }

    long memory_ = 0;
    uint64_t bus_[16] = {};
    flex_npu_grant grant_ = {};
    uint16_t given_ = 0;
};

Npu npu;

bool hold() {
    check("memory", npu.prepare());
    const long result = npu.acquire_patiently();
    check("acquire", result == 0);
    return result == 0;
}

} // namespace

void npu_use() {
    check("nothing is held at first", Npu::release() == -ENODEV && Npu::wait(0) == -ENODEV);
    if (!hold()) return;
    check("it is empty", npu.is_empty());
    check("acquired twice", npu.acquire() == -EEXIST);
    check("it starts", npu.start());
    check("a job", npu.signal_data(0x1234) == FLEX_NPU_OK && read_at<uint64_t>(npu.data()) == 0x1234);
    for (const uint64_t nowhere :
         {uint64_t{0}, uint64_t{0x0e100000}, uint64_t{0x60000000}, uint64_t{0x41000000}}) {
        const uint32_t status = npu.signal(nowhere, 1);
        std::printf("a job for %llx ends with %u\n", static_cast<unsigned long long>(nowhere), status);
        check("a bad address ends the job", status == FLEX_NPU_FAULT || status == FLEX_NPU_BAD_OPERAND);
    }
    check("and not the device",
          npu.signal_data(0x5678) == FLEX_NPU_OK && read_at<uint64_t>(npu.data()) == 0x5678);
    check("no recall", Npu::wait(1'000'000) == 0);

    uint64_t address = 0, on_stack = 0;
    check("no address but of Flex-Mem",
          flex(FLEX_SYS_MEM_ADDRESSES, npu.registers(), 1, &address) == -EFAULT &&
              flex(FLEX_SYS_MEM_ADDRESSES, reinterpret_cast<uint64_t>(&on_stack) & ~(kPage - 1), 1,
                   &address) == -EFAULT);
    check("registers are no memory", flex(FLEX_SYS_MEM_FREE, npu.registers(), kPage) == -EINVAL &&
                                         flex(SYS_munmap, npu.registers(), kPage) == -EINVAL &&
                                         flex(SYS_write, 1, npu.registers(), 4) == -EFAULT);
    npu.leave_canary();
    check("release", Npu::release() == 0);
    check("released once", Npu::release() == -ENODEV);
    check("acquire again", npu.acquire_patiently() == 0);
    check("nothing is left", npu.is_empty());
    npu.start();
    npu.leave_canary(); /* for Linux to look for */
    check("release again", Npu::release() == 0);
}

void npu_recall() {
    if (!hold()) return;
    npu.start();
    npu.start_waiting();
    std::puts("holding");
    check("a recall", Npu::wait(30'000'000'000) == 1);
    check("and again", Npu::wait(30'000'000'000) == 1);
    for (int i = 0; i < 300 && Npu::wait(0) == 1; i++) std::this_thread::sleep_for(10ms);
    check("it is lost", Npu::wait(0) == -ENODEV);
    write_at<uint32_t>(npu.registers(), 5);
    check("its registers are memory that nobody reads", read_at<uint32_t>(npu.registers()) == 5);
    check("not to be had before it is released", npu.acquire() == -EEXIST);
    check("release tells", Npu::release() == -ENODEV);
    check("it comes back", npu.acquire_patiently() == 0 && npu.start() && npu.signal_data(9) == FLEX_NPU_OK);
    check("release", Npu::release() == 0);
}

void npu_exit() {
    if (!hold()) return;
    npu.start();
    npu.start_waiting();
    std::this_thread::sleep_for(100ms);
    check("a job runs", npu.reg(FLEX_NPU_REG_STATUS) == 1);
}

void npu_take_turns() {
    check("memory", npu.prepare());
    int turns = 40, good = 0;
    if (std::FILE* file = std::fopen("/data/npu-turns", "r")) {
        if (std::fscanf(file, "%d", &turns) != 1) turns = 40;
        std::fclose(file);
    }
    std::puts("taking turns");
    for (int i = 1; i <= turns; i++) {
        if (npu.acquire_patiently() != 0 || !npu.start()) break;
        const uint64_t word = static_cast<uint64_t>(i);
        const bool right = npu.signal_data(word) == FLEX_NPU_OK && read_at<uint64_t>(npu.data()) == word;
        /* A recall may come at any time, and then what was held is lost. */
        const long released = Npu::release();
        if (released != 0 && released != -ENODEV) break;
        good += right || released == -ENODEV;
    }
    std::printf("%d of %d turns\n", good, turns);
    check("every turn", good == turns);
}
