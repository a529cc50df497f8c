#include "worker/tokenizer/normalizer.h"

#include <optional>
#include <utility>
#include <vector>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/byte_level.h"
#include "worker/tokenizer/replace.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

class SequenceNormalizer : public Normalizer {
 public:
  explicit SequenceNormalizer(std::vector<std::unique_ptr<const Normalizer>> steps)
      : steps_(std::move(steps)) {}
  absl::Status Apply(NormalizedText* text) const override {
    const size_t bytes_max =
        base::kNormalizedGrowthMax * (text->text.size() + base::kTokenBytesMax);
    for (const auto& step : steps_) {
      LEXICO_RETURN_IF_ERROR(step->Apply(text));
      if (text->text.size() > bytes_max) {
        return absl::InvalidArgumentError(fmt::format(
            "the tokenizer's normalizers make {} bytes, at most {}", text->text.size(), bytes_max));
      }
    }
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

class FormNormalizer : public Normalizer {
 public:
  explicit FormNormalizer(NormalForm form) : form_(form) {}
  absl::Status Apply(NormalizedText* text) const override {
    text->text = Normalize(form_, text->text);
    return absl::OkStatus();
  }

 private:
  NormalForm form_;
};

class LowercaseNormalizer : public Normalizer {
 public:
  absl::Status Apply(NormalizedText* text) const override {
    text->text = ToLower(text->text);
    return absl::OkStatus();
  }
};

// White space at the ends.
class StripNormalizer : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(NormalizedText* text) const override {
    const std::string_view all = text->text;
    size_t begin = 0;
    size_t end = all.size();
    for (size_t next = 0; left_ && begin < end; begin = next) {
      if (!IsWhitespace(NextChar(all, &next))) break;
    }
    for (size_t next = end; right_ && begin < end; end = next) {
      if (!IsWhitespace(PreviousChar(all, &next))) break;
    }
    text->front_removed |= begin > 0;
    text->text = std::string(all.substr(begin, end - begin));
    return absl::OkStatus();
  }

 private:
  bool left_;
  bool right_;
};

// Removes combining marks; letters that are one character stay (decompose first to lose accents).
class StripAccentsNormalizer : public Normalizer {
 public:
  absl::Status Apply(NormalizedText* text) const override {
    std::string out;
    for (size_t begin = 0, end = 0; begin < text->text.size(); begin = end) {
      if (!IsCombiningMark(NextChar(text->text, &end))) {
        out.append(text->text, begin, end - begin);
      } else if (begin == 0) {
        text->front_removed = true;
      }
    }
    text->text = std::move(out);
    return absl::OkStatus();
  }
};

class ReplaceNormalizer : public Normalizer {
 public:
  explicit ReplaceNormalizer(Replacer replacer) : replacer_(std::move(replacer)) {}
  absl::Status Apply(NormalizedText* text) const override {
    LEXICO_ASSIGN_OR_RETURN(text->text, replacer_.Apply(text->text));
    return absl::OkStatus();
  }

 private:
  Replacer replacer_;
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::Status Apply(NormalizedText* text) const override {
    if (!text->text.empty()) text->text.insert(0, prefix_);
    return absl::OkStatus();
  }

 private:
  std::string prefix_;
};

class ByteLevelNormalizer : public Normalizer {
 public:
  absl::Status Apply(NormalizedText* text) const override {
    std::string out;
    AppendByteLevel(text->text, &out);
    text->text = std::move(out);
    return absl::OkStatus();
  }
};

std::optional<NormalForm> FormOf(std::string_view type) {
  if (type == "NFC") return NormalForm::kNfc;
  if (type == "NFD") return NormalForm::kNfd;
  if (type == "NFKC") return NormalForm::kNfkc;
  if (type == "NFKD") return NormalForm::kNfkd;
  return std::nullopt;
}

using Result = absl::StatusOr<std::unique_ptr<const Normalizer>>;

Result Read(const Component& component, int depth);

Result ReadSequence(const Component& component, int depth) {
  if (depth >= base::kComponentDepthMax) {
    return component.Error(
        fmt::format("nested deeper than {} components", base::kComponentDepthMax));
  }
  LEXICO_ASSIGN_OR_RETURN(const auto list, component.List("normalizers"));
  std::vector<std::unique_ptr<const Normalizer>> steps;
  for (const Component& element : list) {
    LEXICO_ASSIGN_OR_RETURN(auto step, Read(element, depth + 1));
    steps.push_back(std::move(step));
  }
  return std::make_unique<SequenceNormalizer>(std::move(steps));
}

Result Read(const Component& component, int depth) {
  LEXICO_ASSIGN_OR_RETURN(const std::string type, component.Type());
  if (type == "Sequence") return ReadSequence(component, depth);
  if (const auto form = FormOf(type)) return std::make_unique<FormNormalizer>(*form);
  if (type == "Lowercase") return std::make_unique<LowercaseNormalizer>();
  if (type == "StripAccents") return std::make_unique<StripAccentsNormalizer>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Strip") {
    LEXICO_ASSIGN_OR_RETURN(const bool left, component.Bool("strip_left"));
    LEXICO_ASSIGN_OR_RETURN(const bool right, component.Bool("strip_right"));
    return std::make_unique<StripNormalizer>(left, right);
  }
  if (type == "Replace") {
    LEXICO_ASSIGN_OR_RETURN(Replacer replacer, Replacer::Read(component));
    return std::make_unique<ReplaceNormalizer>(std::move(replacer));
  }
  if (type == "Prepend") {
    LEXICO_ASSIGN_OR_RETURN(std::string prefix, component.String("prepend"));
    return std::make_unique<PrependNormalizer>(std::move(prefix));
  }
  return component.Unsupported(type,
                               "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, "
                               "Replace, Prepend, ByteLevel");
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Normalizer>> ReadNormalizer(const Component& component) {
  if (component.IsNull()) return nullptr;
  return Read(component, 0);
}

}  // namespace lexico::worker
