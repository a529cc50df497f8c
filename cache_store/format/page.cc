#include "cache_store/format/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "proto/base/bytes.h"
#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

constexpr char kMagic[4] = {'L', 'X', 'P', 'G'};
constexpr size_t kHeaderCrcOffset = 12;
constexpr size_t kReservedBytes = 24;

uint32_t HeaderCrc(std::span<const uint8_t> header) {
  return base::Crc32c(header.subspan(kHeaderCrcOffset + 4),
                      base::Crc32c(header.first(kHeaderCrcOffset)));
}

// DataLoss unless min <= value <= max.
absl::Status CheckRange(const char* field, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("page header: {} is {}, allowed are {} to {}", field, value, min, max));
}

absl::Status CheckShape(const PageShape& shape) {
  LEXICO_RETURN_IF_ERROR(CheckRange("kind", static_cast<uint64_t>(shape.kind), 0, 2));
  LEXICO_RETURN_IF_ERROR(CheckRange("n_kv_heads", shape.n_kv_heads, 1, base::kKvHeadsMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("head_dim", shape.head_dim, 1, base::kHeadDimMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("page_tokens", shape.page_tokens, 1, base::kPageTokensMax));
  const bool codes = shape.kind == PageKind::kCodes;
  const uint64_t type_max = codes ? 0 : static_cast<uint64_t>(DenseType::kBF16);
  LEXICO_RETURN_IF_ERROR(
      CheckRange("dense_type", static_cast<uint64_t>(shape.dense_type), 0, type_max));
  if (shape.kind == PageKind::kWindow) {
    LEXICO_RETURN_IF_ERROR(CheckRange("n_tokens", shape.n_tokens, 1, base::kWindowPageTokensMax));
  } else {
    LEXICO_RETURN_IF_ERROR(
        CheckRange("n_tokens", shape.n_tokens, shape.page_tokens, shape.page_tokens));
  }
  const uint64_t sparsity_min = codes ? 1 : 0;
  const uint64_t sparsity_max = codes ? base::kSparsityMax : 0;
  LEXICO_RETURN_IF_ERROR(CheckRange("sparsity_k", shape.sparsity_k, sparsity_min, sparsity_max));
  LEXICO_RETURN_IF_ERROR(CheckRange("sparsity_v", shape.sparsity_v, sparsity_min, sparsity_max));
  LEXICO_RETURN_IF_ERROR(CheckRange("n_atoms", shape.n_atoms, codes ? base::kAtomsMin : 0,
                                    codes ? base::kAtomsMax : 0));
  if (codes && shape.page_tokens % 2 != 0) {
    return absl::DataLossError(fmt::format(
        "page header: page_tokens is {}, codes need an even number", shape.page_tokens));
  }
  return CheckRange("payload_bytes of the shape", shape.payload_bytes(), 1,
                    base::kPagePayloadBytesMax);
}

absl::Status CheckError(const char* field, float value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("page header: {} is {}, must be finite and not negative", field, value));
}

// One vector of the check below per head keeps the loops simple enough to be vectorised.
absl::Status VerifyHead(const PageShape& shape, int sparsity, std::span<const uint8_t> head,
                        size_t head_offset) {
  const size_t n = static_cast<size_t>(shape.page_tokens) * sparsity;
  uint16_t atom_max = 0;
  for (size_t i = 0; i < n; ++i) {
    uint16_t atom;
    std::memcpy(&atom, head.data() + 2 * i, 2);
    atom_max = std::max(atom_max, atom);
  }
  if (atom_max >= shape.n_atoms) {
    return absl::DataLossError(
        fmt::format("page payload: atom index {} in the block at offset {}, the dictionary has {} "
                    "atoms",
                    atom_max, head_offset, shape.n_atoms));
  }
  uint8_t coef_max = 0;
  for (size_t i = 0; i < n; ++i) {
    coef_max = std::max<uint8_t>(coef_max, head[2 * n + i] & 0x7f);
  }
  if (coef_max == 0x7f) {
    return absl::DataLossError(
        fmt::format("page payload: a coefficient in the block at offset {} is NaN", head_offset));
  }
  return absl::OkStatus();
}

absl::Status VerifyCodes(const PageShape& shape, std::span<const uint8_t> payload) {
  size_t offset = 0;
  for (const int sparsity : {int{shape.sparsity_k}, int{shape.sparsity_v}}) {
    const size_t head_bytes = size_t{3} * shape.page_tokens * sparsity;
    for (int head = 0; head < shape.n_kv_heads; ++head, offset += head_bytes) {
      LEXICO_RETURN_IF_ERROR(
          VerifyHead(shape, sparsity, payload.subspan(offset, head_bytes), offset));
    }
  }
  return absl::OkStatus();
}

std::string Name(const base::Fingerprint& value) { return value.ToHex(); }
template <typename T>
std::string Name(const T& value) {
  return fmt::format("{}", value);
}
std::string Name(const PageShape& s) {
  return fmt::format(
      "(kind {}, dense_type {}, n_kv_heads {}, head_dim {}, page_tokens {}, n_tokens {}, sparsity "
      "{}/{}, n_atoms {})",
      static_cast<int>(s.kind), static_cast<int>(s.dense_type), s.n_kv_heads, s.head_dim,
      s.page_tokens, s.n_tokens, s.sparsity_k, s.sparsity_v, s.n_atoms);
}

template <typename T>
absl::Status CheckField(const char* field, const T& actual, const std::optional<T>& expected) {
  if (!expected.has_value() || actual == *expected) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("page has {} {}, expected {}", field, Name(actual), Name(*expected)));
}

}  // namespace

size_t PageShape::payload_bytes() const {
  if (kind == PageKind::kCodes) {
    return size_t{3} * n_kv_heads * page_tokens * (size_t{sparsity_k} + sparsity_v);
  }
  return size_t{2} * n_tokens * n_kv_heads * head_dim * DenseTypeBytes(dense_type);
}

EncodedHeader EncodeHeader(const PageHeader& header, std::span<const uint8_t> payload) {
  const PageShape& shape = header.shape;
  if (const absl::Status valid = CheckShape(shape); !valid.ok()) {
    base::CheckFailed(__FILE__, __LINE__, std::string(valid.message()));
  }
  LEXICO_CHECK_EQ(payload.size(), shape.payload_bytes());
  LEXICO_CHECK_LT(header.layer, static_cast<uint32_t>(base::kLayersMax));
  base::ByteWriter out;
  out.WriteBytes(base::AsBytes({kMagic, 4}));
  out.Write(kPageVersion);
  out.Write<uint16_t>(kPageHeaderBytes);
  out.Write(static_cast<uint32_t>(payload.size()));
  out.Write<uint32_t>(0);  // header_crc32c, below
  out.Write(base::Crc32c(payload));
  out.Write(shape.kind);
  out.Write(shape.dense_type);
  out.Write(shape.n_kv_heads);
  out.Write(shape.head_dim);
  out.Write(shape.page_tokens);
  out.Write(shape.n_tokens);
  out.Write(shape.sparsity_k);
  out.Write(shape.sparsity_v);
  out.Write(shape.n_atoms);
  out.Write(header.layer);
  out.Write(header.first_token);
  out.WriteBytes(header.model.bytes);
  out.WriteBytes(header.dictionary.bytes);
  out.WriteBytes(header.key.bytes);
  out.Write(header.relative_error_k);
  out.Write(header.relative_error_v);
  out.buffer().append(kReservedBytes, '\0');

  EncodedHeader encoded;
  LEXICO_CHECK_EQ(out.size(), encoded.size());
  std::memcpy(encoded.data(), out.buffer().data(), encoded.size());
  const uint32_t crc = HeaderCrc(encoded);
  std::memcpy(encoded.data() + kHeaderCrcOffset, &crc, sizeof(crc));
  return encoded;
}

absl::StatusOr<PageHeader> DecodeHeader(std::span<const uint8_t> bytes) {
  if (bytes.size() < kPageHeaderBytes) {
    return absl::DataLossError(
        fmt::format("page ends after {} bytes, a header takes {}", bytes.size(), kPageHeaderBytes));
  }
  base::ByteReader in(bytes.first(kPageHeaderBytes));
  if (std::memcmp(in.ReadBytes(4).data(), kMagic, 4) != 0) {
    return absl::DataLossError("page does not begin with LXPG");
  }
  const auto version = in.Read<uint16_t>();
  const auto header_bytes = in.Read<uint16_t>();
  PageHeader header;
  header.payload_bytes = in.Read<uint32_t>();
  const auto stored_crc = in.Read<uint32_t>();
  if (header_bytes < kPageHeaderBytes || header_bytes > bytes.size()) {
    return absl::DataLossError(
        fmt::format("page header: header_bytes is {}, {} are there", header_bytes, bytes.size()));
  }
  const uint32_t crc = HeaderCrc(bytes.first(header_bytes));
  if (crc != stored_crc) {
    return absl::DataLossError(
        fmt::format("page header: crc32c is {:08x}, stored {:08x}", crc, stored_crc));
  }
  if (version != kPageVersion) {
    return absl::FailedPreconditionError(
        fmt::format("page has version {}, this build reads {}", version, kPageVersion));
  }
  LEXICO_RETURN_IF_ERROR(
      CheckRange("header_bytes", header_bytes, kPageHeaderBytes, kPageHeaderBytes));
  header.payload_crc32c = in.Read<uint32_t>();
  PageShape& shape = header.shape;
  shape.kind = static_cast<PageKind>(in.Read<uint8_t>());
  shape.dense_type = static_cast<DenseType>(in.Read<uint8_t>());
  shape.n_kv_heads = in.Read<uint16_t>();
  shape.head_dim = in.Read<uint16_t>();
  shape.page_tokens = in.Read<uint16_t>();
  shape.n_tokens = in.Read<uint16_t>();
  shape.sparsity_k = in.Read<uint8_t>();
  shape.sparsity_v = in.Read<uint8_t>();
  shape.n_atoms = in.Read<uint32_t>();
  header.layer = in.Read<uint32_t>();
  header.first_token = in.Read<uint64_t>();
  header.model = in.Read<base::Fingerprint>();
  header.dictionary = in.Read<base::Fingerprint>();
  header.key = in.Read<base::Fingerprint>();
  header.relative_error_k = in.Read<float>();
  header.relative_error_v = in.Read<float>();
  LEXICO_RETURN_IF_ERROR(CheckShape(shape));
  LEXICO_RETURN_IF_ERROR(CheckRange("payload_bytes", header.payload_bytes, shape.payload_bytes(),
                                    shape.payload_bytes()));
  LEXICO_RETURN_IF_ERROR(CheckRange("layer", header.layer, 0, base::kLayersMax - 1));
  LEXICO_RETURN_IF_ERROR(CheckError("relative_error_k", header.relative_error_k));
  LEXICO_RETURN_IF_ERROR(CheckError("relative_error_v", header.relative_error_v));
  const auto reserved = in.ReadBytes(kReservedBytes);
  if (std::any_of(reserved.begin(), reserved.end(), [](uint8_t byte) { return byte != 0; })) {
    return absl::DataLossError("page header: reserved bytes are not zero");
  }
  return header;
}

absl::Status VerifyPayload(const PageHeader& header, std::span<const uint8_t> payload) {
  if (payload.size() != header.payload_bytes) {
    return absl::DataLossError(fmt::format("page {} has {} payload bytes, its header says {}",
                                           header.key.ToHex(), payload.size(),
                                           header.payload_bytes));
  }
  const uint32_t crc = base::Crc32c(payload);
  if (crc != header.payload_crc32c) {
    return absl::DataLossError(fmt::format("page {}: payload crc32c is {:08x}, stored {:08x}",
                                           header.key.ToHex(), crc, header.payload_crc32c));
  }
  if (header.shape.kind != PageKind::kCodes) return absl::OkStatus();
  return VerifyCodes(header.shape, payload);
}

absl::Status CheckExpected(const PageHeader& header, const ExpectedPage& expected) {
  LEXICO_RETURN_IF_ERROR(CheckField<PageKey>("key", header.key, expected.key));
  LEXICO_RETURN_IF_ERROR(CheckField("model fingerprint", header.model, expected.model));
  LEXICO_RETURN_IF_ERROR(
      CheckField("dictionary fingerprint", header.dictionary, expected.dictionary));
  LEXICO_RETURN_IF_ERROR(CheckField("shape", header.shape, expected.shape));
  LEXICO_RETURN_IF_ERROR(CheckField("layer", header.layer, expected.layer));
  return CheckField("first_token", header.first_token, expected.first_token);
}

absl::StatusOr<PageView> DecodePage(std::span<const uint8_t> bytes, const ExpectedPage* expected) {
  PageView view;
  LEXICO_ASSIGN_OR_RETURN(view.header, DecodeHeader(bytes));
  view.payload = bytes.subspan(kPageHeaderBytes);
  LEXICO_RETURN_IF_ERROR(VerifyPayload(view.header, view.payload));
  if (expected != nullptr) LEXICO_RETURN_IF_ERROR(CheckExpected(view.header, *expected));
  return view;
}

}  // namespace lexico::store
