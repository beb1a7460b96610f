#include "api/sessions.h"

#include "api/http.h"
#include "api/openai.h"

namespace flex::api {
namespace {

/// Empty: the response says what is missing.
std::string owner_of(const Callers& callers, const httplib::Request& request, httplib::Response& response) {
    const std::string owner = callers.of(request.get_header_value("Authorization"))
                                  .owner(request.get_header_value(kCacheKeyHeader));
    if (owner.empty()) {
        response.status = 401;
        response.set_header("WWW-Authenticate", "Bearer");
    }
    return owner;
}

void erase(pipeline::Registry& models, const std::string& owner, const std::optional<memory::SessionId>& id,
           httplib::Response& response) {
    const auto deleted = models.delete_sessions(owner, id);
    if (!deleted) return send_error(response, deleted.error());
    if (id && *deleted == 0)
        return send_error(response, fail(ErrorCode::kNotFound, "you have no such session"));
    response.set_content(format_deleted(*deleted), kJson);
}

} // namespace

void route_sessions(httplib::Server& server, pipeline::Registry& models, const Callers& callers) {
    constexpr const char* kAll = "/flexserve/sessions";
    server.Get(kAll, [&](const auto& request, auto& response) {
        const std::string owner = owner_of(callers, request, response);
        if (!owner.empty()) response.set_content(format_sessions(models.sessions(owner)), kJson);
    });
    server.Delete(kAll, [&](const auto& request, auto& response) {
        const std::string owner = owner_of(callers, request, response);
        if (!owner.empty()) erase(models, owner, {}, response);
    });
    server.Delete(R"(/flexserve/sessions/([0-9a-f]{32}))", [&](const auto& request, auto& response) {
        const std::string owner = owner_of(callers, request, response);
        memory::SessionId id{};
        if (owner.empty()) return;
        if (const Status read = crypto::from_hex(request.matches[1].str(), id); !read)
            return send_error(response, read.error());
        erase(models, owner, id, response);
    });
}

} // namespace flex::api
