#include "tools/eval/files/text_file.h"

#include <fmt/format.h>

#include <fstream>

#include "proto/base/read_file.h"
#include "proto/base/status.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::eval {
namespace {

constexpr size_t kTextBytesMax = size_t{1} << 30;

}  // namespace

absl::StatusOr<std::vector<int32_t>> ReadTextIds(const std::string& model_dir,
                                                 const std::string& path) {
  LEXICO_ASSIGN_OR_RETURN(const auto tokenizer,
                          worker::Tokenizer::Load(model_dir + "/tokenizer.json"));
  LEXICO_ASSIGN_OR_RETURN(const std::string text, base::ReadTextFile(path, kTextBytesMax));
  auto ids = tokenizer->Encode(text, {.add_special_tokens = false, .parse_special = false});
  if (!ids.ok()) return base::Annotate(ids.status(), path);
  return ids;
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.flush();
  if (file.good()) return absl::OkStatus();
  return absl::UnavailableError(
      fmt::format("{}: cannot be written; is there such a folder, and room?", path));
}

}  // namespace lexico::eval
