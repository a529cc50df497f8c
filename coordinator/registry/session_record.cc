#include "coordinator/registry/session_record.h"

#include <fmt/format.h>

#include "proto/base/bytes.h"

namespace lexico::coord {
namespace {

void WriteFacts(const SessionFacts& facts, base::ByteWriter* out) {
  out->Write<int32_t>(facts.tier);
  out->Write<int64_t>(facts.n_tokens);
  out->Write<int64_t>(facts.n_sealed_tokens);
  out->Write<int64_t>(facts.n_durable_tokens);
  out->Write<uint64_t>(facts.code_bytes);
  out->Write<uint64_t>(facts.window_bytes);
  out->Write<uint64_t>(facts.bookkeeping_bytes);
  out->Write<uint64_t>(facts.fp16_equivalent_bytes);
  out->Write<double>(facts.relative_error_k);
  out->Write<double>(facts.relative_error_v);
}

SessionFacts ReadFacts(base::ByteReader* in) {
  SessionFacts facts;
  facts.tier = in->Read<int32_t>();
  facts.n_tokens = in->Read<int64_t>();
  facts.n_sealed_tokens = in->Read<int64_t>();
  facts.n_durable_tokens = in->Read<int64_t>();
  facts.code_bytes = in->Read<uint64_t>();
  facts.window_bytes = in->Read<uint64_t>();
  facts.bookkeeping_bytes = in->Read<uint64_t>();
  facts.fp16_equivalent_bytes = in->Read<uint64_t>();
  facts.relative_error_k = in->Read<double>();
  facts.relative_error_v = in->Read<double>();
  return facts;
}

}  // namespace

std::string EncodeSession(const Session& session) {
  base::ByteWriter out;
  out.Write<uint16_t>(kSessionRecordVersion);
  out.Write<uint8_t>(static_cast<uint8_t>(session.placement));
  out.Write<uint8_t>(session.used ? 1 : 0);
  out.Write<uint64_t>(session.epoch);
  out.Write<int32_t>(session.format);
  out.Write<int64_t>(absl::ToUnixMicros(session.create_time));
  out.Write<int64_t>(absl::ToUnixMicros(session.last_use_time));
  for (const std::string* text :
       {&session.session_id, &session.tenant, &session.model, &session.model_identity,
        &session.profile, &session.parent, &session.create_fingerprint, &session.worker,
        &session.system_prompt}) {
    out.WriteString(*text);
  }
  WriteFacts(session.facts, &out);
  out.WriteString(session.min_profile);
  out.WriteString(session.facts.profile);
  return out.Take();
}

absl::StatusOr<Session> DecodeSession(std::string_view bytes) {
  base::ByteReader in(base::AsBytes(bytes));
  const auto version = in.Read<uint16_t>();
  if (in.ok() && version > kSessionRecordVersion) {
    return absl::FailedPreconditionError(
        fmt::format("session record of version {}, this program reads up to {}; use the newer one",
                    version, kSessionRecordVersion));
  }
  Session session;
  const auto placement = in.Read<uint8_t>();
  session.placement = static_cast<Placement>(placement);
  session.used = in.Read<uint8_t>() != 0;
  session.epoch = in.Read<uint64_t>();
  session.format = in.Read<int32_t>();
  session.create_time = absl::FromUnixMicros(in.Read<int64_t>());
  session.last_use_time = absl::FromUnixMicros(in.Read<int64_t>());
  for (std::string* text : {&session.session_id, &session.tenant, &session.model,
                            &session.model_identity, &session.profile, &session.parent,
                            &session.create_fingerprint, &session.worker, &session.system_prompt}) {
    *text = in.ReadString();
  }
  session.facts = ReadFacts(&in);
  if (version > 1) {
    session.min_profile = in.ReadString();
    session.facts.profile = in.ReadString();
  }
  if (!in.ok() || in.remaining() != 0 || version == 0 ||
      placement > static_cast<uint8_t>(Placement::kRecovering) || session.session_id.empty()) {
    return absl::DataLossError(fmt::format(
        "a session record of {} bytes (version {}) does not parse; it was read up to byte {}",
        bytes.size(), version, in.offset()));
  }
  return session;
}

std::string EncodeDeletion(const Deletion& deletion) {
  base::ByteWriter out;
  out.Write<uint16_t>(kDeletionRecordVersion);
  out.Write<uint64_t>(deletion.epoch);
  out.Write<int64_t>(absl::ToUnixMicros(deletion.create_time));
  out.Write<int64_t>(absl::ToUnixMicros(deletion.delete_time));
  out.WriteString(deletion.session_id);
  return out.Take();
}

absl::StatusOr<Deletion> DecodeDeletion(std::string_view bytes) {
  base::ByteReader in(base::AsBytes(bytes));
  const auto version = in.Read<uint16_t>();
  if (in.ok() && version > kDeletionRecordVersion) {
    return absl::FailedPreconditionError(
        fmt::format("deletion record of version {}, this program reads up to {}; use the newer one",
                    version, kDeletionRecordVersion));
  }
  Deletion deletion;
  deletion.epoch = in.Read<uint64_t>();
  deletion.create_time = absl::FromUnixMicros(in.Read<int64_t>());
  deletion.delete_time = absl::FromUnixMicros(in.Read<int64_t>());
  deletion.session_id = in.ReadString();
  if (!in.ok() || in.remaining() != 0 || version == 0 || deletion.session_id.empty()) {
    return absl::DataLossError(fmt::format(
        "a deletion record of {} bytes (version {}) does not parse; it was read up to byte {}",
        bytes.size(), version, in.offset()));
  }
  return deletion;
}

}  // namespace lexico::coord
