// What a session consists of: its tokens, how they were computed, and the names of its pages.
// docs/formats/manifest.md is the specification; this header is its transcription.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache_store/format/page_key.h"
#include "proto/base/hash.h"

namespace lexico::store {

// On disk and on the wire; never reuse a value. What version 1 can say is written as that.
inline constexpr uint16_t kManifestVersion = 2;
// A session can be demoted at most as often as there are smaller codes.
inline constexpr size_t kDemotionsMax = 256;
inline constexpr size_t kManifestHeaderBytes = 32;

struct Manifest {
  std::string session_id;
  std::string tenant;
  std::string parent_session_id;  // empty unless forked
  std::string model_name;
  std::string profile;
  base::Fingerprint model;
  base::Fingerprint dictionary;
  base::Fingerprint tokenizer;
  uint64_t epoch = 0;
  int64_t create_time_us = 0;  // since 1970
  uint8_t text_format = 0;     // lexico.v1.TextFormat
  std::string conversation;    // turn state; opaque to everyone but the worker service
  uint32_t n_layers = 0;
  uint32_t page_tokens = 0;
  double relative_error_k = 0;  // mean over sealed pages
  double relative_error_v = 0;
  uint64_t n_sealed_tokens = 0;      // a multiple of page_tokens
  std::vector<uint32_t> tokens;      // [n_tokens]
  std::vector<Segment> segments;     // sorted, the first at 0; empty only without tokens
  std::vector<PageKey> page_keys;    // [n_sealed_tokens / page_tokens, n_layers]
  std::vector<PageKey> window_keys;  // [n_layers], or empty when the window was not stored
  // Version 2: all empty as a rule.
  std::string birth_profile;        // the session's first; empty: `profile`
  std::string min_profile;          // it may be demoted to this one; empty: it may not
  std::vector<Demotion> demotions;  // of its pages, oldest first

  bool operator==(const Manifest&) const = default;
};

// OK, or InvalidArgument with the rule of manifest.md that does not hold and both values.
absl::Status CheckManifest(const Manifest& manifest);

// InvalidArgument as CheckManifest.
absl::StatusOr<std::string> EncodeManifest(const Manifest& manifest);

// DataLoss: damaged, or never valid. FailedPrecondition: of a newer version. Safe on hostile bytes:
// takes at most a small multiple of bytes.size() of memory.
absl::StatusOr<Manifest> DecodeManifest(std::span<const uint8_t> bytes);

}  // namespace lexico::store
