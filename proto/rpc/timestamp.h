// Times in messages: whole microseconds, so that a time which travels and comes back is equal.
//
// Pure functions; any thread.
#pragma once

#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace lexico::rpc {

// REQUIRES: `time` is not before 1970.
inline google::protobuf::Timestamp TimeToProto(absl::Time time) {
  const int64_t micros = absl::ToUnixMicros(time);
  google::protobuf::Timestamp out;
  out.set_seconds(micros / 1000000);
  out.set_nanos(static_cast<int32_t>(micros % 1000000) * 1000);
  return out;
}

inline absl::Time TimeFromProto(const google::protobuf::Timestamp& stamp) {
  return absl::FromUnixMicros(stamp.seconds() * 1000000 + stamp.nanos() / 1000);
}

}  // namespace lexico::rpc
