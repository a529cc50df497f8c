// Reading a document into a session.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "lexico/v1/inference.pb.h"
#include "tools/cli/client.h"

namespace lexico::cli {

// Sends the file ("-": standard input) in chunks and waits until its tokens are prefilled, with
// progress on a terminal. Errors as ReadTextFile and AppendText.
absl::StatusOr<v1::AppendTextResponse> AppendFile(const Client& client,
                                                  const std::string& session_id,
                                                  const std::string& path);

// The same for text in memory, without a word on the terminal. UTF-8 is the server's to check.
absl::StatusOr<v1::AppendTextResponse> AppendString(const Client& client,
                                                    const std::string& session_id,
                                                    std::string_view text);

}  // namespace lexico::cli
