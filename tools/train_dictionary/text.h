// The text of a training: files, read as one, in windows of token ids.
//
// A line that is exactly kDocumentEnd separates documents and is left out; everything else is
// tokenized as the text of a user, so that nothing in it can become a special token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/hash.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::train_dictionary {

inline constexpr std::string_view kDocumentEnd = "<|endoftext|>";

// Immutable; any thread may read.
class Text {
 public:
  // Reads all files once, in blocks. NotFound: a file that cannot be read; InvalidArgument: none
  // given, all empty, or not UTF-8 (the message names the file and the byte).
  static absl::StatusOr<Text> Open(std::vector<std::string> paths);

  int64_t bytes() const { return bytes_; }
  // Of the sizes and contents of the files, in order: names what was trained on.
  const base::Fingerprint& fingerprint() const { return fingerprint_; }

  // Up to n_ids ids of the whole lines within bytes begin .. end - 1, or of the whole characters
  // where there is no end of a line: fewer where those end. Unavailable: a file has changed or is
  // gone; errors of the tokenizer.
  absl::StatusOr<std::vector<int32_t>> ReadWindow(int64_t begin, int64_t end, int64_t n_ids,
                                                  const worker::Tokenizer& tokenizer) const;

 private:
  struct File {
    std::string path;
    int64_t begin = 0;  // of the whole text
    int64_t bytes = 0;
  };
  Text() = default;
  absl::StatusOr<std::string> Read(int64_t begin, int64_t n) const;

  std::vector<File> files_;
  int64_t bytes_ = 0;
  base::Fingerprint fingerprint_;
};

}  // namespace lexico::train_dictionary
