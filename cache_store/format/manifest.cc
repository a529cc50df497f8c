#include "cache_store/format/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "proto/base/bytes.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

constexpr char kMagic[4] = {'L', 'X', 'M', 'F'};
constexpr size_t kCrcOffset = 16;
constexpr size_t kReservedBytes = 12;
constexpr size_t kSegmentBytes = 9;

uint32_t ManifestCrc(std::span<const uint8_t> bytes) {
  return base::Crc32c(bytes.subspan(kCrcOffset + 4), base::Crc32c(bytes.first(kCrcOffset)));
}

absl::Status CheckRange(const char* field, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("manifest: {} is {}, allowed are {} to {}", field, value, min, max));
}

absl::Status CheckError(const char* field, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("manifest: {} is {}, must be finite and not negative", field, value));
}

absl::Status CheckSegments(const Manifest& manifest) {
  const size_t n_tokens = manifest.tokens.size();
  const auto& segments = manifest.segments;
  LEXICO_RETURN_IF_ERROR(CheckRange("n_segments", segments.size(), n_tokens == 0 ? 0 : 1,
                                    n_tokens == 0 ? 0 : base::kSegmentsMax));
  for (size_t i = 0; i < segments.size(); ++i) {
    const uint64_t min = i == 0 ? 0 : segments[i - 1].first_token + 1;
    const uint64_t max = i == 0 ? 0 : n_tokens - 1;
    LEXICO_RETURN_IF_ERROR(
        CheckRange("first token of a segment", segments[i].first_token, min, max));
    LEXICO_RETURN_IF_ERROR(
        CheckRange("kind of a segment", static_cast<uint64_t>(segments[i].kind), 0, 1));
  }
  return absl::OkStatus();
}

// `count` items of `item_bytes` each are still there; otherwise the input is cut or lies.
absl::Status CheckCount(const char* field, uint64_t count, size_t item_bytes,
                        const base::ByteReader& in) {
  if (in.ok() && count <= in.remaining() / item_bytes) return absl::OkStatus();
  return absl::DataLossError(fmt::format("manifest: {} is {}, {} bytes are left", field, count,
                                         in.ok() ? in.remaining() : 0));
}

template <typename T>
absl::Status ReadArray(const char* field, uint64_t count, base::ByteReader& in,
                       std::vector<T>* out) {
  LEXICO_RETURN_IF_ERROR(CheckCount(field, count, sizeof(T), in));
  const auto bytes = in.ReadBytes(count * sizeof(T));
  out->resize(count);
  if (count != 0) std::memcpy(out->data(), bytes.data(), bytes.size());
  return absl::OkStatus();
}

template <typename T>
std::span<const uint8_t> ArrayBytes(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

absl::Status CheckDemotions(const Manifest& m) {
  LEXICO_RETURN_IF_ERROR(CheckRange("n_demotions", m.demotions.size(), 0, kDemotionsMax));
  uint64_t sealed_min = 1;
  for (const Demotion& demotion : m.demotions) {
    LEXICO_RETURN_IF_ERROR(CheckRange("length of the profile of a demotion", demotion.from.size(),
                                      1, base::kNameBytesMax));
    LEXICO_RETURN_IF_ERROR(CheckRange("n_sealed_tokens of a demotion", demotion.n_sealed_tokens,
                                      sealed_min, m.n_sealed_tokens));
    LEXICO_RETURN_IF_ERROR(CheckRange("n_tokens of a demotion", demotion.n_tokens,
                                      demotion.n_sealed_tokens, m.tokens.size()));
    if (demotion.n_sealed_tokens % m.page_tokens != 0) {
      return absl::InvalidArgumentError(fmt::format(
          "manifest: n_sealed_tokens of a demotion is {}, must be a multiple of page_tokens {}",
          demotion.n_sealed_tokens, m.page_tokens));
    }
    sealed_min = demotion.n_sealed_tokens;
  }
  return absl::OkStatus();
}

bool IsOfVersion1(const Manifest& m) {
  return m.birth_profile.empty() && m.min_profile.empty() && m.demotions.empty();
}

absl::Status ReadVersion2(base::ByteReader& in, Manifest* m) {
  constexpr size_t kDemotionBytesMin = 20;
  m->birth_profile = in.ReadString();
  m->min_profile = in.ReadString();
  const auto n_demotions = in.Read<uint64_t>();
  LEXICO_RETURN_IF_ERROR(CheckCount("n_demotions", n_demotions, kDemotionBytesMin, in));
  m->demotions.resize(n_demotions);
  for (Demotion& demotion : m->demotions) {
    demotion.from = in.ReadString();
    demotion.n_sealed_tokens = in.Read<uint64_t>();
    demotion.n_tokens = in.Read<uint64_t>();
  }
  if (in.ok()) return absl::OkStatus();
  return absl::DataLossError("manifest: ends within its demotions");
}

void WriteVersion2(const Manifest& m, base::ByteWriter* out) {
  out->WriteString(m.birth_profile);
  out->WriteString(m.min_profile);
  out->Write<uint64_t>(m.demotions.size());
  for (const Demotion& demotion : m.demotions) {
    out->WriteString(demotion.from);
    out->Write(demotion.n_sealed_tokens);
    out->Write(demotion.n_tokens);
  }
}

absl::StatusOr<Manifest> DecodeBody(base::ByteReader in, uint16_t version) {
  Manifest m;
  m.session_id = in.ReadString();
  m.tenant = in.ReadString();
  m.parent_session_id = in.ReadString();
  m.model_name = in.ReadString();
  m.profile = in.ReadString();
  m.model = in.Read<base::Fingerprint>();
  m.dictionary = in.Read<base::Fingerprint>();
  m.tokenizer = in.Read<base::Fingerprint>();
  m.epoch = in.Read<uint64_t>();
  m.create_time_us = in.Read<int64_t>();
  m.text_format = in.Read<uint8_t>();
  m.conversation = in.ReadString();
  m.n_layers = in.Read<uint32_t>();
  m.page_tokens = in.Read<uint32_t>();
  m.relative_error_k = in.Read<double>();
  m.relative_error_v = in.Read<double>();
  m.n_sealed_tokens = in.Read<uint64_t>();
  LEXICO_RETURN_IF_ERROR(ReadArray("n_tokens", in.Read<uint64_t>(), in, &m.tokens));
  const auto n_segments = in.Read<uint64_t>();
  LEXICO_RETURN_IF_ERROR(CheckCount("n_segments", n_segments, kSegmentBytes, in));
  m.segments.resize(n_segments);
  for (Segment& segment : m.segments) {
    segment.first_token = in.Read<uint64_t>();
    segment.kind = static_cast<SegmentKind>(in.Read<uint8_t>());
  }
  LEXICO_RETURN_IF_ERROR(ReadArray("n_page_keys", in.Read<uint64_t>(), in, &m.page_keys));
  LEXICO_RETURN_IF_ERROR(ReadArray("n_window_keys", in.Read<uint64_t>(), in, &m.window_keys));
  if (version > 1) LEXICO_RETURN_IF_ERROR(ReadVersion2(in, &m));
  if (in.remaining() != 0) {
    return absl::DataLossError(
        fmt::format("manifest: {} bytes follow its last field", in.remaining()));
  }
  return m;
}

}  // namespace

absl::Status CheckManifest(const Manifest& m) {
  LEXICO_RETURN_IF_ERROR(
      CheckRange("length of session_id", m.session_id.size(), 1, base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("length of tenant", m.tenant.size(), 0, base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("length of parent_session_id", m.parent_session_id.size(), 0,
                                    base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(
      CheckRange("length of model_name", m.model_name.size(), 0, base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("length of profile", m.profile.size(), 0, base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(
      CheckRange("length of conversation", m.conversation.size(), 0, base::kConversationBytesMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("n_layers", m.n_layers, 1, base::kLayersMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("page_tokens", m.page_tokens, 1, base::kPageTokensMax));
  LEXICO_RETURN_IF_ERROR(CheckError("relative_error_k", m.relative_error_k));
  LEXICO_RETURN_IF_ERROR(CheckError("relative_error_v", m.relative_error_v));
  LEXICO_RETURN_IF_ERROR(CheckRange("n_tokens", m.tokens.size(), 0, base::kSessionTokensMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("n_sealed_tokens", m.n_sealed_tokens, 0, m.tokens.size()));
  if (m.n_sealed_tokens % m.page_tokens != 0) {
    return absl::InvalidArgumentError(
        fmt::format("manifest: n_sealed_tokens is {}, must be a multiple of page_tokens {}",
                    m.n_sealed_tokens, m.page_tokens));
  }
  LEXICO_RETURN_IF_ERROR(CheckSegments(m));
  LEXICO_RETURN_IF_ERROR(
      CheckRange("length of birth_profile", m.birth_profile.size(), 0, base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(
      CheckRange("length of min_profile", m.min_profile.size(), 0, base::kNameBytesMax));
  LEXICO_RETURN_IF_ERROR(CheckDemotions(m));
  const uint64_t n_keys = m.n_sealed_tokens / m.page_tokens * m.n_layers;
  LEXICO_RETURN_IF_ERROR(CheckRange("n_page_keys", m.page_keys.size(), n_keys, n_keys));
  if (m.window_keys.empty()) return absl::OkStatus();
  const uint64_t n_window = m.n_sealed_tokens == m.tokens.size() ? 0 : m.n_layers;
  return CheckRange("n_window_keys", m.window_keys.size(), n_window, n_window);
}

absl::StatusOr<std::string> EncodeManifest(const Manifest& m) {
  LEXICO_RETURN_IF_ERROR(CheckManifest(m));
  base::ByteWriter out;
  out.buffer().reserve(1024 + m.conversation.size() + ArrayBytes(m.tokens).size() +
                       kSegmentBytes * m.segments.size() + ArrayBytes(m.page_keys).size());
  out.WriteBytes(base::AsBytes({kMagic, 4}));
  out.Write<uint16_t>(IsOfVersion1(m) ? 1 : kManifestVersion);
  out.Write<uint16_t>(kManifestHeaderBytes);
  out.Write<uint64_t>(0);  // total_bytes and crc32c, below
  out.Write<uint32_t>(0);
  out.buffer().append(kReservedBytes, '\0');
  for (const std::string* text :
       {&m.session_id, &m.tenant, &m.parent_session_id, &m.model_name, &m.profile}) {
    out.WriteString(*text);
  }
  for (const base::Fingerprint* print : {&m.model, &m.dictionary, &m.tokenizer}) {
    out.WriteBytes(print->bytes);
  }
  out.Write(m.epoch);
  out.Write(m.create_time_us);
  out.Write(m.text_format);
  out.WriteString(m.conversation);
  out.Write(m.n_layers);
  out.Write(m.page_tokens);
  out.Write(m.relative_error_k);
  out.Write(m.relative_error_v);
  out.Write(m.n_sealed_tokens);
  out.Write<uint64_t>(m.tokens.size());
  out.WriteBytes(ArrayBytes(m.tokens));
  out.Write<uint64_t>(m.segments.size());
  for (const Segment& segment : m.segments) {
    out.Write(segment.first_token);
    out.Write(segment.kind);
  }
  out.Write<uint64_t>(m.page_keys.size());
  out.WriteBytes(ArrayBytes(m.page_keys));
  out.Write<uint64_t>(m.window_keys.size());
  out.WriteBytes(ArrayBytes(m.window_keys));
  if (!IsOfVersion1(m)) WriteVersion2(m, &out);

  std::string bytes = out.Take();
  LEXICO_RETURN_IF_ERROR(CheckRange("total_bytes", bytes.size(), 0, base::kManifestBytesMax));
  const uint64_t total_bytes = bytes.size();
  std::memcpy(bytes.data() + 8, &total_bytes, sizeof(total_bytes));
  const uint32_t crc = ManifestCrc(base::AsBytes(bytes));
  std::memcpy(bytes.data() + kCrcOffset, &crc, sizeof(crc));
  return bytes;
}

absl::StatusOr<Manifest> DecodeManifest(std::span<const uint8_t> bytes) {
  if (bytes.size() < kManifestHeaderBytes || bytes.size() > base::kManifestBytesMax) {
    return absl::DataLossError(fmt::format("manifest has {} bytes, allowed are {} to {}",
                                           bytes.size(), kManifestHeaderBytes,
                                           base::kManifestBytesMax));
  }
  base::ByteReader in(bytes);
  if (std::memcmp(in.ReadBytes(4).data(), kMagic, 4) != 0) {
    return absl::DataLossError("manifest does not begin with LXMF");
  }
  const auto version = in.Read<uint16_t>();
  const auto header_bytes = in.Read<uint16_t>();
  const auto total_bytes = in.Read<uint64_t>();
  const auto stored_crc = in.Read<uint32_t>();
  if (total_bytes != bytes.size()) {
    return absl::DataLossError(
        fmt::format("manifest has {} bytes, its header says {}", bytes.size(), total_bytes));
  }
  const uint32_t crc = ManifestCrc(bytes);
  if (crc != stored_crc) {
    return absl::DataLossError(
        fmt::format("manifest: crc32c is {:08x}, stored {:08x}", crc, stored_crc));
  }
  if (version == 0 || version > kManifestVersion) {
    return absl::FailedPreconditionError(fmt::format(
        "manifest has version {}, this build reads 1 to {}", version, kManifestVersion));
  }
  const auto reserved = in.ReadBytes(kReservedBytes);
  if (header_bytes != kManifestHeaderBytes ||
      std::any_of(reserved.begin(), reserved.end(), [](uint8_t byte) { return byte != 0; })) {
    return absl::DataLossError(
        fmt::format("manifest: header_bytes is {} (must be {}) or reserved bytes are not zero",
                    header_bytes, kManifestHeaderBytes));
  }
  LEXICO_ASSIGN_OR_RETURN(Manifest manifest, DecodeBody(in, version));
  if (const absl::Status valid = CheckManifest(manifest); !valid.ok()) {
    return absl::DataLossError(std::string(valid.message()));
  }
  return manifest;
}

}  // namespace lexico::store
