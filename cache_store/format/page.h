// The bytes of one page, as stored in every tier and sent on the wire: a header of 128 bytes, then
// the payload. docs/formats/page.md is the specification; this header is its transcription.
//
// Header and payload are separate everywhere, so that a payload is never copied: a writer encodes a
// header for a payload where it lies, and a reader lets the payload land where it will live.
//
// Nothing is implied by a file's name or a message around the page: a page that is renamed,
// truncated, damaged or delivered for another key is recognised from its own bytes.
//
// Errors. DataLoss: damaged, or never valid. FailedPrecondition: intact, but of a newer version, or
// not the page asked for. Every message names the field and both values.
//
// Pure functions; any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "cache_store/format/page_key.h"
#include "proto/base/hash.h"
#include "proto/base/vector_code.h"

namespace lexico::store {

// On disk and on the wire; never reuse a value. A page has the first version that can say what it
// holds.
inline constexpr uint16_t kPageVersion = 1;
inline constexpr uint16_t kPageVersionForms = 2;  // of codes that are not the paper's
inline constexpr size_t kPageHeaderBytes = 128;
static_assert(kPageHeaderBytes % 64 == 0,
              "the payload must keep 64-byte alignment for vector loads");

// Values reach headers: do not change them. Equal to those of kernels::DType.
enum class DenseType : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

constexpr size_t DenseTypeBytes(DenseType type) { return type == DenseType::kF32 ? 4 : 2; }

// What a payload looks like. Equal for all pages of one kind of a session, but for a window's
// n_tokens.
struct PageShape {
  PageKind kind = PageKind::kCodes;
  DenseType dense_type = DenseType::kF32;  // of dense and window; kF32 for codes
  uint16_t n_kv_heads = 0;
  uint16_t head_dim = 0;
  uint16_t page_tokens = 0;
  uint16_t n_tokens = 0;   // page_tokens, or the window's length
  uint8_t sparsity_k = 0;  // of codes; 0 otherwise
  uint8_t sparsity_v = 0;
  uint32_t n_atoms = 0;  // of codes with atoms; 0 otherwise
  base::CodeForm form_k = {};
  base::CodeForm form_v = {};

  bool operator==(const PageShape&) const = default;
  base::VectorCode code(bool value) const {
    return value ? base::VectorCode{sparsity_v, form_v} : base::VectorCode{sparsity_k, form_k};
  }
  size_t payload_bytes() const;
};

struct PageHeader {
  PageShape shape;
  uint32_t layer = 0;
  uint64_t first_token = 0;  // position in the session
  base::Fingerprint model;
  base::Fingerprint dictionary;  // zero without codes
  PageKey key;
  float relative_error_k = 0;  // mean over the page's vectors, after rounding of coefficients
  float relative_error_v = 0;
  // Set by EncodeHeader and DecodeHeader.
  uint32_t payload_bytes = 0;
  uint32_t payload_crc32c = 0;

  bool operator==(const PageHeader&) const = default;
};

using EncodedHeader = std::array<uint8_t, kPageHeaderBytes>;

// The header of `payload`. CHECK-fails when the shape is outside limits.h or does not give
// payload.size(): shapes are validated when a model is loaded.
EncodedHeader EncodeHeader(const PageHeader& header, std::span<const uint8_t> payload);

// Steps 1 to 3 of page.md. `bytes` must begin with a header and may be longer.
absl::StatusOr<PageHeader> DecodeHeader(std::span<const uint8_t> bytes);

// Steps 4 and 5: length, checksum, atom indices, coefficients, scales. Cost: one pass of CRC and
// one of comparisons, several GB/s.
absl::Status VerifyPayload(const PageHeader& header, std::span<const uint8_t> payload);

// What a reader asked for. Unset fields are not compared.
struct ExpectedPage {
  PageKey key;
  std::optional<base::Fingerprint> model;
  std::optional<base::Fingerprint> dictionary;
  std::optional<PageShape> shape;
  std::optional<uint32_t> layer;
  std::optional<uint64_t> first_token;
};

// Step 6. FailedPrecondition names the first field that differs.
absl::Status CheckExpected(const PageHeader& header, const ExpectedPage& expected);

struct PageView {
  PageHeader header;
  std::span<const uint8_t> payload;  // into the decoded bytes
};

// All steps for a page in one piece; nothing may follow it. Without `expected` step 6 is left out.
absl::StatusOr<PageView> DecodePage(std::span<const uint8_t> bytes,
                                    const ExpectedPage* expected = nullptr);

}  // namespace lexico::store
