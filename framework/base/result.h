// Errors as values, for every room of the framework. No function of the framework throws.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace flex {

enum class ErrorCode : std::uint8_t {
    kInvalidArgument, ///< the caller asked for something that makes no sense (HTTP 400, exit 2)
    kCorrupt,         ///< data that breaks its own format: truncated, out of range, inconsistent
    kUnsupported,     ///< well-formed, but not something this build can do
    kNotFound,        ///< no such file, model, tensor, token
    kAuthentication,  ///< a signature, tag, version or key does not fit: the data is not what it claims
    kOutOfMemory,     ///< memory was refused; trying again after freeing some can help
    kContextFull,     ///< more tokens than the context holds
    kCancelled,       ///< somebody asked to stop
    kIo,              ///< storage or stream failed
    kForbidden,       ///< well-formed, but not for this caller (HTTP 403)
    kBusy,            ///< a limit of concurrent use is reached; later can work
    kInternal,        ///< a broken promise inside the program
};

/// One line for a person, lower-case start, no full stop: what is wrong, with the numbers, and what to do.
struct Error {
    ErrorCode code = ErrorCode::kInternal;
    std::string message;
};

/// Either a T or an Error. Reading the one that is not there is a bug and aborts in debug builds.
template <class T> class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    [[nodiscard]] bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    [[nodiscard]] T& value() & { return *get(); }
    [[nodiscard]] const T& value() const& { return *const_cast<Result*>(this)->get(); }
    [[nodiscard]] T&& value() && { return std::move(*get()); }
    T& operator*() & { return *get(); }
    const T& operator*() const& { return value(); }
    T* operator->() { return get(); }
    const T* operator->() const { return &value(); }

    [[nodiscard]] const Error& error() const {
        assert(!ok());
        return *std::get_if<1>(&state_);
    }

private:
    T* get() {
        assert(ok());
        return std::get_if<0>(&state_);
    }
    std::variant<T, Error> state_;
};

/// Success, or an Error.
template <> class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    [[nodiscard]] bool ok() const { return !error_.has_value(); }
    explicit operator bool() const { return ok(); }
    [[nodiscard]] const Error& error() const {
        assert(!ok());
        return *error_;
    }

private:
    std::optional<Error> error_;
};

using Status = Result<void>;

/// `return fail(ErrorCode::kCorrupt, "…");` works in a function returning any Result.
[[nodiscard]] inline Error fail(ErrorCode code, std::string message) {
    return Error{code, std::move(message)};
}

} // namespace flex

#define FLEX_CONCAT_INNER(a, b) a##b
#define FLEX_CONCAT(a, b) FLEX_CONCAT_INNER(a, b)

/// Leaves the function with the error of `expression`, if there is one.
#define FLEX_TRY(expression)                                                                                 \
    do {                                                                                                     \
        if (auto flex_status = (expression); !flex_status.ok()) return flex_status.error();                  \
    } while (false)

/// `FLEX_ASSIGN(auto model, Model::plan(gguf));`
#define FLEX_ASSIGN(declaration, expression)                                                                 \
    auto FLEX_CONCAT(flex_result_, __LINE__) = (expression);                                                 \
    if (!FLEX_CONCAT(flex_result_, __LINE__).ok()) return FLEX_CONCAT(flex_result_, __LINE__).error();       \
    declaration = std::move(FLEX_CONCAT(flex_result_, __LINE__)).value()
