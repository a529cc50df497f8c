#include "tests/cache_store/page_factory.h"

#include <stdlib.h>

#include <cstring>
#include <filesystem>

#include "proto/base/check.h"

namespace lexico::store {

base::Fingerprint FingerprintOf(std::string_view text) {
  base::FingerprintBuilder builder;
  builder.Add(text);
  return builder.Finish();
}

PageKey KeyOf(uint64_t n) { return FingerprintOf("page " + std::to_string(n)); }

PageShape CodeShape() {
  return {.kind = PageKind::kCodes,
          .n_kv_heads = 2,
          .head_dim = 16,
          .page_tokens = 4,
          .n_tokens = 4,
          .sparsity_k = 3,
          .sparsity_v = 2,
          .n_atoms = 64};
}

PageShape FamilyShape() {
  PageShape shape = CodeShape();
  shape.sparsity_v = 0;
  shape.form_k = {.coefficient_bits = 4, .residual_bits = 2, .unbiased = true};
  shape.form_v = {.coefficient_bits = 8, .residual_bits = 3};
  return shape;
}

std::string TestPage::bytes() const {
  std::string out(reinterpret_cast<const char*>(encoded.data()), encoded.size());
  out.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  return out;
}

TestPage MakePage(const PageKey& key, const PageShape& shape) {
  TestPage page;
  page.payload.resize(shape.payload_bytes());
  uint32_t state = key.bytes[0] | key.bytes[1] << 8 | key.bytes[2] << 16;
  const auto next = [&] { return state = state * 1664525u + 1013904223u; };
  if (shape.kind == PageKind::kCodes) {
    // Bytes below 0x7c are no NaN and no infinity of any type.
    for (uint8_t& byte : page.payload) byte = static_cast<uint8_t>((next() >> 8) % 0x7c);
    uint8_t* out = page.payload.data();
    for (const bool value : {false, true}) {
      const base::VectorCode code = shape.code(value);
      for (int head = 0; head < shape.n_kv_heads; ++head) {
        for (int i = 0; i < shape.page_tokens * code.sparsity; ++i) {
          auto atom = static_cast<uint16_t>((next() >> 8) % shape.n_atoms);
          if (code.is_packed()) atom = static_cast<uint16_t>(atom << 4 | i % 16);
          std::memcpy(out + 2 * i, &atom, 2);
        }
        out += code.block_bytes(shape.page_tokens, shape.head_dim);
      }
    }
  } else {
    for (uint8_t& byte : page.payload) byte = static_cast<uint8_t>(next() >> 24);
  }
  page.header = {.shape = shape,
                 .layer = 1,
                 .first_token = 8,
                 .model = FingerprintOf("model"),
                 .dictionary = FingerprintOf("dictionary"),
                 .key = key,
                 .relative_error_k = 0.25f,
                 .relative_error_v = 0.5f};
  page.encoded = EncodeHeader(page.header, page.payload);
  return page;
}

NamedPage ToNamed(const TestPage& page) {
  const std::string bytes = page.bytes();
  auto buffer = std::make_shared<PageBuffer>(bytes.size());
  std::memcpy(buffer->mutable_bytes().data(), bytes.data(), bytes.size());
  return {page.header.key, std::move(buffer)};
}

NamedPage MakeNamedPage(uint64_t n, const PageShape& shape) {
  return ToNamed(MakePage(KeyOf(n), shape));
}

Manifest MakeManifest(const std::string& session_id, uint64_t epoch,
                      const std::vector<uint64_t>& pages) {
  Manifest manifest;
  manifest.session_id = session_id;
  manifest.tenant = "tenant";
  manifest.model_name = "model";
  manifest.profile = "paper-s16";
  manifest.model = FingerprintOf("model");
  manifest.dictionary = FingerprintOf("dictionary");
  manifest.tokenizer = FingerprintOf("tokenizer");
  manifest.epoch = epoch;
  manifest.create_time_us = 1'700'000'000'000'000;
  manifest.text_format = 1;
  manifest.conversation = "open user turn";
  manifest.n_layers = 1;
  manifest.page_tokens = 4;
  manifest.relative_error_k = 0.25;
  manifest.n_sealed_tokens = 4 * pages.size();
  for (uint32_t i = 0; i < 4 * pages.size() + 3; ++i) manifest.tokens.push_back(1000 + i);
  manifest.segments = {{0, SegmentKind::kPrefill}, {2, SegmentKind::kDecode}};
  for (const uint64_t n : pages) manifest.page_keys.push_back(KeyOf(n));
  return manifest;
}

std::string MakeManifestBytes(const std::string& session_id, uint64_t epoch,
                              const std::vector<uint64_t>& pages) {
  const auto bytes = EncodeManifest(MakeManifest(session_id, epoch, pages));
  LEXICO_CHECK(bytes.ok());
  return *bytes;
}

TempDir::TempDir() {
  // In memory where there is room: an fsync costs 10 ms on a busy disk, and what it is for, a power
  // failure, is not something a test can have.
  std::error_code error;
  const auto space = std::filesystem::space("/dev/shm", error);
  const bool in_memory = !error && space.available >= (128u << 20);
  const std::filesystem::path root =
      in_memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
  std::string pattern = (root / "lexico-XXXXXX").string();
  LEXICO_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace lexico::store
