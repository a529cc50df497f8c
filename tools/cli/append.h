// Reading a document into a session.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "lexico/v1/inference.pb.h"
#include "tools/cli/client.h"

namespace lexico::cli {

// Sends the file ("-": standard input) in chunks and waits until its tokens are prefilled, with
// progress on a terminal. Errors as ReadTextFile and AppendText.
absl::StatusOr<v1::AppendTextResponse> AppendFile(const Client& client,
                                                  const std::string& session_id,
                                                  const std::string& path);

}  // namespace lexico::cli
