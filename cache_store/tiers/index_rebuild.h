// What becomes of a data directory whose index is missing or damaged. docs/formats/segment.md,
// "When the index is lost".
#pragma once

#include <string>

#include "absl/status/status.h"

namespace rocksdb {
struct Options;
}  // namespace rocksdb

namespace lexico::store {

// DataLoss when `data_dir` has been served before and its index is not there: opening would begin a
// new one, and the sessions of the old would be gone without a word.
absl::Status CheckIndexIsThere(const std::string& data_dir);

// Makes the index anew from what can be read of the old one, and leaves the old one aside as
// index.damaged-N, whole. Manifests and tombstones are taken over; where pages lie is not, so that
// every segment is read again when the tier opens. What cannot be read is logged by file. When it
// is interrupted, it can be run again.
absl::Status RebuildIndex(const std::string& data_dir);

// Of index.cc.
rocksdb::Options IndexDbOptions();

}  // namespace lexico::store
