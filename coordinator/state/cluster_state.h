// What must outlive a coordinator: named records with revisions.
//
// The interface is what a replicated key-value store offers (etcd: a key's mod_revision, a
// transaction that compares it, a range read), so that coordinators of a cluster can share one. On
// one machine LocalState implements it in memory with a journal on disk.
//
// Revisions count the writes of the whole state, from 1. A record's revision is that of its last
// write. A write names the revision it replaces and is refused when another came between: two
// coordinators cannot both move a session.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lexico::coord {

struct StateEntry {
  std::string key;
  std::string value;
  uint64_t revision = 0;
};

// When a write returns.
enum class Durability {
  kDurable,  // after it is safe from a loss of power: ownership, creation, deletion
  kLazy,     // after the process' death cannot undo it: facts and times of use
};

class ClusterState {
 public:
  virtual ~ClusterState() = default;

  // Entries whose key begins with `prefix`, ordered by key.
  virtual absl::StatusOr<std::vector<StateEntry>> List(std::string_view prefix) = 0;

  // Writes a record and returns its new revision. `expected_revision` is that of the record to
  // replace, 0 for "there is none". Aborted when it is another (nothing was written);
  // ResourceExhausted when the disk is full (nothing was written); Unavailable when it fails:
  // whether the record survives a restart is then unknown, and no write succeeds before one.
  virtual absl::StatusOr<uint64_t> Put(std::string_view key, std::string_view value,
                                       uint64_t expected_revision, Durability durability) = 0;

  // Always durable. Errors as Put; Aborted also when there is no such record.
  virtual absl::Status Delete(std::string_view key, uint64_t expected_revision) = 0;

  // Of the last write; 0 for a new state.
  virtual uint64_t Revision() = 0;

  // What it takes on disk; 0 in memory.
  virtual uint64_t SizeBytes() = 0;
};

}  // namespace lexico::coord
