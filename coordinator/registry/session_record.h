// A session as the cluster state keeps it: bytes with a version, described in
// docs/formats/journal.md.
//
// The record has what a restarted coordinator must know (placement, epoch) and the last known
// facts. Its revision is the state's business and not part of the bytes.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/registry/types.h"

namespace lexico::coord {

// On disk. Never reuse a value. Version 2 has the least profile and the one of now at its end.
inline constexpr uint16_t kSessionRecordVersion = 2;

std::string EncodeSession(const Session& session);

// DataLoss for bytes that are no record (the journal's checksum has passed, so a bug or tampering);
// FailedPrecondition for a newer version.
absl::StatusOr<Session> DecodeSession(std::string_view bytes);

inline constexpr uint16_t kDeletionRecordVersion = 1;  // On disk. Never reuse a value.

// A deletion that the store has not confirmed. Errors as DecodeSession.
std::string EncodeDeletion(const Deletion& deletion);
absl::StatusOr<Deletion> DecodeDeletion(std::string_view bytes);

}  // namespace lexico::coord
