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
constexpr size_t kReservedBytes = 22;

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

// The form of one half in a byte: residual bits, then whether coefficients are packed, then whether
// unbiased. 0 is the paper's.
uint8_t FormByte(const base::VectorCode& code) {
  return static_cast<uint8_t>(code.form.residual_bits | (code.is_packed() ? 4 : 0) |
                              (code.form.unbiased ? 8 : 0));
}

base::CodeForm FormOf(uint8_t byte) {
  return {.coefficient_bits = (byte & 4) != 0 ? 4 : 8,
          .residual_bits = byte & 3,
          .unbiased = (byte & 8) != 0};
}

absl::Status CheckCode(const PageShape& shape, bool value) {
  const base::VectorCode code = shape.code(value);
  const bool codes = shape.kind == PageKind::kCodes;
  LEXICO_RETURN_IF_ERROR(CheckRange(value ? "sparsity_v" : "sparsity_k", code.sparsity,
                                    codes && !code.has_residual() ? 1 : 0,
                                    codes ? base::kSparsityMax : 0));
  // What a byte cannot say is not a form: without atoms there are no bits of a coefficient.
  if (FormOf(FormByte(code)) != code.form || (!codes && code.form != base::CodeForm{}) ||
      (code.has_residual() && !base::CanRotate(shape.head_dim))) {
    return absl::DataLossError(
        fmt::format("page header: {} is ({} atoms, {} bits, residual {}, head_dim {}), which is no "
                    "code",
                    value ? "form_v" : "form_k", code.sparsity, code.form.coefficient_bits,
                    code.form.residual_bits, shape.head_dim));
  }
  return absl::OkStatus();
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
  LEXICO_RETURN_IF_ERROR(CheckCode(shape, false));
  LEXICO_RETURN_IF_ERROR(CheckCode(shape, true));
  const bool atoms = shape.sparsity_k > 0 || shape.sparsity_v > 0;
  const bool packed = shape.code(false).is_packed() || shape.code(true).is_packed();
  const int atoms_max = packed ? base::kPackedAtomsMax : base::kAtomsMax;
  LEXICO_RETURN_IF_ERROR(
      CheckRange("n_atoms", shape.n_atoms, atoms ? base::kAtomsMin : 0, atoms ? atoms_max : 0));
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

uint16_t WordAt(std::span<const uint8_t> bytes, size_t i) {
  uint16_t word;
  std::memcpy(&word, bytes.data() + 2 * i, 2);
  return word;
}

absl::Status VerifyScales(const char* what, std::span<const uint8_t> scales, size_t head_offset) {
  for (size_t i = 0; i < scales.size() / 2; ++i) {
    if ((WordAt(scales, i) & 0x7c00) == 0x7c00) {
      return absl::DataLossError(fmt::format(
          "page payload: a {} in the block at offset {} is not finite", what, head_offset));
    }
  }
  return absl::OkStatus();
}

// One check per head and array keeps the loops simple enough to be vectorised.
absl::Status VerifyHead(const PageShape& shape, const base::VectorCode& code,
                        std::span<const uint8_t> head, size_t head_offset) {
  const size_t n_vectors = shape.page_tokens;
  const size_t n = n_vectors * code.sparsity;
  uint16_t atom_max = 0;
  for (size_t i = 0; i < n; ++i) atom_max = std::max(atom_max, WordAt(head, i));
  if (code.is_packed()) atom_max >>= 4;
  if (n > 0 && atom_max >= shape.n_atoms) {
    return absl::DataLossError(
        fmt::format("page payload: atom index {} in the block at offset {}, the dictionary has {} "
                    "atoms",
                    atom_max, head_offset, shape.n_atoms));
  }
  if (code.is_packed()) {
    LEXICO_RETURN_IF_ERROR(
        VerifyScales("scale", head.subspan(code.scales_at(n_vectors), 2 * n_vectors), head_offset));
  }
  if (code.has_residual()) {
    LEXICO_RETURN_IF_ERROR(
        VerifyScales("residual scale",
                     head.subspan(code.residual_scales_at(n_vectors), 2 * n_vectors), head_offset));
  }
  if (code.is_packed()) return absl::OkStatus();
  const std::span<const uint8_t> coefs = head.subspan(code.coefs_at(n_vectors), n);
  uint8_t coef_max = 0;
  for (const uint8_t coef : coefs) coef_max = std::max<uint8_t>(coef_max, coef & 0x7f);
  if (coef_max == 0x7f) {
    return absl::DataLossError(
        fmt::format("page payload: a coefficient in the block at offset {} is NaN", head_offset));
  }
  return absl::OkStatus();
}

absl::Status VerifyCodes(const PageShape& shape, std::span<const uint8_t> payload) {
  size_t offset = 0;
  for (const bool value : {false, true}) {
    const base::VectorCode code = shape.code(value);
    const size_t head_bytes = code.block_bytes(shape.page_tokens, shape.head_dim);
    for (int head = 0; head < shape.n_kv_heads; ++head, offset += head_bytes) {
      LEXICO_RETURN_IF_ERROR(VerifyHead(shape, code, payload.subspan(offset, head_bytes), offset));
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
      "{}/{}, forms {}/{}, n_atoms {})",
      static_cast<int>(s.kind), static_cast<int>(s.dense_type), s.n_kv_heads, s.head_dim,
      s.page_tokens, s.n_tokens, s.sparsity_k, s.sparsity_v, FormByte(s.code(false)),
      FormByte(s.code(true)), s.n_atoms);
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
    return n_kv_heads * (code(false).block_bytes(page_tokens, head_dim) +
                         code(true).block_bytes(page_tokens, head_dim));
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
  const uint8_t form_k = FormByte(shape.code(false));
  const uint8_t form_v = FormByte(shape.code(true));
  out.Write((form_k | form_v) == 0 ? kPageVersion : kPageVersionForms);
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
  out.Write(form_k);
  out.Write(form_v);
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
  if (version != kPageVersion && version != kPageVersionForms) {
    return absl::FailedPreconditionError(
        fmt::format("page has version {}, this build reads {} "
                    "and {}",
                    version, kPageVersion, kPageVersionForms));
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
  const auto form_k = in.Read<uint8_t>();
  const auto form_v = in.Read<uint8_t>();
  if (((form_k | form_v) == 0) != (version == kPageVersion) || form_k > 15 || form_v > 15) {
    return absl::DataLossError(
        fmt::format("page header: forms are {} and {} in version {}", form_k, form_v, version));
  }
  shape.form_k = FormOf(form_k);
  shape.form_v = FormOf(form_v);
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
