#include "cli/attack/secrets.h"

#include <algorithm>
#include <random>

namespace flex::attack {
namespace {

constexpr std::size_t kPieces = 6;
constexpr std::size_t kTextMin = 16, kTextMax = 48;

std::string random_word(std::size_t letters) {
    std::random_device random;
    std::string word;
    for (std::size_t i = 0; i < letters; ++i) word += static_cast<char>('a' + random() % 26);
    return word;
}

} // namespace

Secrets Secrets::make(Target& target) {
    Secrets secrets;
    secrets.query = target.reference_query();
    secrets.query.prompt = "My secret word is " + random_word(24) + ". What is FlexServe?";
    secrets.query.max_tokens = 48;
    secrets.answer = target.api().complete(secrets.query);
    if (!secrets.answer.ok) throw platform::DeviceError("the device does not answer: " + secrets.answer.error);
    secrets.weights = weight_pieces(target.model_file(), kPieces);
    return secrets;
}

std::vector<Pattern> Secrets::patterns() const {
    std::vector<Pattern> all = weights;
    all.push_back({"prompt", query.prompt.substr(0, kTextMax)});
    // A few words would be found by chance.
    if (answer.text.size() >= kTextMin) all.push_back({"answer", answer.text.substr(0, kTextMax)});
    return all;
}

} // namespace flex::attack
