#include "kernel/random.hpp"

#include "arch/registers.hpp"
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/flash.hpp"

namespace flex::tos {

Drbg g_drbg;
SecureStore g_store;

namespace {

u8 root_key[BOARD_FLASH_ROOT_KEY_BYTES];
bool counter_ready; /* the store's counter was raised for this start */

/* Longer than any label the program may use (64 bytes), so its keys are never ours. */
constexpr char kStoreLabel[] = "flexserve trusted os: authentication key of the secure store in flash 0";
constexpr char kSeedLabel[] = "flexserve trusted os: seed of the random number generator, with boot counter";
static_assert(sizeof kStoreLabel > 65 && sizeof kSeedLabel > 65);

template <u64 N> Bytes text_bytes(const char (&text)[N]) {
    return {reinterpret_cast<const u8*>(text), N - 1};
}

/* 256 bits of RNDR; false: the part has none. */
bool hardware_entropy(u64 (&words)[4]) {
    if (!has_rndr()) return false;
    for (u64& word : words) {
        u32 tries = 0;
        while (!read_rndr(word)) {
            if (++tries == 1000) return false;
        }
    }
    return true;
}

void add_jitter() {
    Sha256 hash;
    for (u32 i = 0; i < 64; i++) {
        const u64 time = now();
        hash.add(&time, sizeof time);
    }
    const Digest digest = hash.finish();
    g_drbg.seed({digest.bytes, sizeof digest.bytes});
}

} // namespace

void load_secrets() {
    flash_read(BOARD_FLASH_ROOT_KEY_OFFSET, root_key, sizeof root_key);
    Digest key = device_key(text_bytes(kStoreLabel));
    g_store.load(store_flash(), {key.bytes, sizeof key.bytes});
    forget(&key, sizeof key);
}

Digest device_key(Bytes label) { return hmac_sha256({root_key, sizeof root_key}, label); }

bool seed_step() {
    u64 words[4];
    if (hardware_entropy(words)) {
        g_drbg.seed({reinterpret_cast<const u8*>(words), sizeof words});
        forget(words, sizeof words);
        add_jitter();
        return true;
    }
    if (!counter_ready) {
        if (!g_store.busy()) g_store.begin(g_store.data(), g_store.boot_counter() + 1);
        const SecureStore::Progress progress = g_store.step();
        if (progress == SecureStore::Progress::More) return false;
        if (progress == SecureStore::Progress::Failed) print("tos: the boot counter could not be written\n");
        counter_ready = true;
        return false;
    }
    counter_ready = false;
    HmacSha256 hmac({root_key, sizeof root_key});
    hmac.add(kSeedLabel, sizeof kSeedLabel);
    const u64 counter = g_store.boot_counter();
    hmac.add(&counter, sizeof counter);
    Digest digest = hmac.finish();
    g_drbg.seed({digest.bytes, sizeof digest.bytes});
    forget(&digest, sizeof digest);
    add_jitter();
    return true;
}

} // namespace flex::tos
