// Who has the NPU: Flex-Monitor's switch and the trusted OS's hold of it, the real code of both, in every
// order of their steps. The hardware is a model that knows who can reach the registers, which tree the stream
// translates by, and whose work is left in the device.
#include "explorer.hpp"
#include "npu_switch.hpp"

#include <gtest/gtest.h>

namespace flex::explore {
namespace {

enum class Stream : u8 { Abort, Normal, Flex };
enum class Work : u8 { None, Normal, Secure };

class NpuWorld;
NpuWorld* g_npu_world = nullptr;
void step();
void saw(u64 value);

struct WatchedNpuAccess {
    static flex_u32 load(const flex_u32* word) {
        step();
        saw(*word);
        return *word;
    }
    static bool swap(flex_u32* word, flex_u32 from, flex_u32 to) {
        step();
        const bool good = *word == from;
        saw(good);
        if (good) *word = to;
        return good;
    }
};

// Everything that changes; equal bytes are equal worlds.
struct Device {
    flex_npu_control control;
    bool normal_registers = true, secure_registers = false, resets = true;
    Stream stream = Stream::Normal;
    Work work = Work::Normal; // a job, or what one left
};

class NpuWorld final : public Subject {
public:
    using Switch = monitor::NpuSwitch<NpuWorld, WatchedNpuAccess>;

    explicit NpuWorld(bool resets) : resets_(resets) {}
    void set_explorer(Explorer* explorer) { explorer_ = explorer; }
    Explorer& explorer() { return *explorer_; }

    void restart() override {
        g_npu_world = this;
        d = {};
        d.control = {};
        d.control.state = FLEX_NPU_NORMAL;
        d.resets = resets_;
    }
    [[nodiscard]] u64 fingerprint() const override {
        u64 hash = mix(d.control.state, d.control.registers);
        hash = mix(hash, u64{d.normal_registers} | u64{d.secure_registers} << 1 | u64{d.resets} << 2);
        return mix(hash, static_cast<u64>(d.stream) << 8 | static_cast<u64>(d.work));
    }
    [[nodiscard]] std::string check() const override {
        if (d.normal_registers && d.secure_registers) return "both worlds reach its registers";
        if (d.normal_registers && d.stream == Stream::Flex)
            return "the normal world drives what does DMA to Flex-Mem";
        if (d.normal_registers && d.work == Work::Secure)
            return "the normal world finds the secure world's work";
        if (d.secure_registers && d.stream != Stream::Flex) return "the secure world's jobs go elsewhere";
        if (d.secure_registers && d.work == Work::Normal)
            return "the secure world finds the normal world's work";
        if (d.stream == Stream::Flex && d.work == Work::Normal)
            return "a job of the normal world does DMA to Flex-Mem";
        if (d.stream == Stream::Normal && d.work == Work::Secure)
            return "a job of the secure world does DMA to normal memory";
        return "";
    }
    [[nodiscard]] std::string check_end() const override {
        if (d.control.state == FLEX_NPU_MOVING) return "nobody has it";
        if (d.control.state == FLEX_NPU_NORMAL && (!d.normal_registers || d.stream != Stream::Normal))
            return "NORMAL, but the normal world cannot use it";
        return "";
    }

    // What NpuSwitch asks of the board.
    monitor::Status locate(flex_npu_control& where) {
        where.registers = 1;
        return monitor::Status::Ok;
    }
    bool hide() {
        step();
        d.normal_registers = false;
        return true;
    }
    void show() {
        step();
        d.normal_registers = true;
    }
    void cut_stream() {
        step();
        d.stream = Stream::Abort;
    }
    void join_stream(bool flex) {
        step();
        d.stream = flex ? Stream::Flex : Stream::Normal;
    }
    bool reset() {
        step();
        if (d.resets) d.work = Work::None;
        return d.resets;
    }
    void settle_interrupts(bool) {}

    // ---- actors
    void give() { (void)Switch(*this, &d.control).give(); }
    void take() { (void)Switch(*this, &d.control).take(); }
    // The normal world's kernel starts a job whenever it can reach the registers.
    void drive() {
        step();
        saw(d.normal_registers);
        if (d.normal_registers) d.work = Work::Normal;
    }
    // The trusted OS: holds it, works with it, unmaps and resets it, gives it back.
    void use() {
        const TrustedOsNpuControl<WatchedNpuAccess> control(&d.control);
        flex_npu_control where;
        if (!control.hold(where)) return;
        if (where.registers != 1) explorer_->fail("held without knowing where its registers are");
        step();
        d.secure_registers = true;
        step();
        d.work = Work::Secure;
        step();
        d.secure_registers = false;
        (void)control.put_back();
    }

    Device d;

private:
    bool resets_;
    Explorer* explorer_ = nullptr;
};

// What an actor has observed tells how far it is, so a step counts as an observation.
void step() {
    g_npu_world->explorer().give_way();
    g_npu_world->explorer().observe(1);
}
void saw(u64 value) { g_npu_world->explorer().observe(value); }

void explore(bool resets, const std::function<std::vector<Explorer::Actor>(NpuWorld&)>& actors) {
    NpuWorld world(resets);
    Explorer explorer(world, actors(world));
    world.set_explorer(&explorer);
    Finding finding;
    const bool found = explorer.find(finding);
    std::printf("             %lu orders, %lu states, %lu steps\n", explorer.runs(), explorer.states(),
                explorer.steps());
#if defined(FLEX_WITHOUT_NPU_RESET) || defined(FLEX_WITHOUT_NPU_UNMAP) || defined(FLEX_WITHOUT_NPU_STREAM)
    EXPECT_TRUE(found) << "the exploration does not notice that a defence is gone";
#else
    EXPECT_FALSE(found) << finding.what << " after " << finding.schedule;
#endif
}

TEST(ExploreNpu, two_cores_switch_while_the_secure_world_uses_it_and_the_normal_world_drives_it) {
    explore(true, [](NpuWorld& w) {
        return std::vector<Explorer::Actor>{
            [&w] {
                w.give();
                w.take();
            },
            [&w] {
                w.take();
                w.give();
            },
            [&w] {
                w.use();
                w.use();
            },
            [&w] {
                w.drive();
                w.drive();
            },
        };
    });
}

#if !defined(FLEX_WITHOUT_NPU_RESET) && !defined(FLEX_WITHOUT_NPU_UNMAP) && !defined(FLEX_WITHOUT_NPU_STREAM)
TEST(ExploreNpu, a_device_that_does_not_end_its_reset_never_changes_hands) {
    explore(false, [](NpuWorld& w) {
        return std::vector<Explorer::Actor>{
            [&w] {
                w.give();
                w.take();
            },
            [&w] { w.give(); },
            [&w] { w.use(); },
            [&w] { w.drive(); },
        };
    });
}
#endif

} // namespace
} // namespace flex::explore
