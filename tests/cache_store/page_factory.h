// Small valid pages and manifests for tests of the store, all derived from a number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache_store/format/manifest.h"
#include "cache_store/format/page.h"
#include "cache_store/format/page_buffer.h"

namespace lexico::store {

// The key of page `n`.
PageKey KeyOf(uint64_t n);
base::Fingerprint FingerprintOf(std::string_view text);

// 2 KV heads, pages of 4 tokens, sparsity 3 and 2, 64 atoms: 120 payload bytes.
PageShape CodeShape();
// 3 packed atoms and 2 unbiased bits for keys, 3 bits for values: version 2.
PageShape FamilyShape();

struct TestPage {
  PageHeader header;
  EncodedHeader encoded;
  std::vector<uint8_t> payload;

  std::string bytes() const;  // header and payload
};

// A valid page whose payload depends on its key.
TestPage MakePage(const PageKey& key, const PageShape& shape = CodeShape());
NamedPage MakeNamedPage(uint64_t n, const PageShape& shape = CodeShape());
NamedPage ToNamed(const TestPage& page);

// A valid manifest of a session that names the pages `pages`, in layers of one.
Manifest MakeManifest(const std::string& session_id, uint64_t epoch,
                      const std::vector<uint64_t>& pages);
std::string MakeManifestBytes(const std::string& session_id, uint64_t epoch,
                              const std::vector<uint64_t>& pages);

// A folder of its own under the test's temporary folder, removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace lexico::store
