// The keys of the coordinator's records in the cluster state. On disk: do not change.
#pragma once

#include <string_view>

namespace lexico::coord {

// + session id; the value is a session record (registry/session_record.h).
inline constexpr std::string_view kSessionPrefix = "session/";
// + session id; the value is a deletion record: the store has not confirmed it yet.
inline constexpr std::string_view kDeletedPrefix = "deleted/";
// + worker id; the value is empty: it drains.
inline constexpr std::string_view kDrainingPrefix = "draining/";

}  // namespace lexico::coord
