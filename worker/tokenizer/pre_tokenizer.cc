#include "worker/tokenizer/pre_tokenizer.h"

#include <functional>
#include <optional>
#include <utility>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/byte_level.h"
#include "worker/tokenizer/regex.h"
#include "worker/tokenizer/split_behavior.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

// The split pattern of GPT-2 (Radford et al. 2019), which ByteLevel with use_regex applies.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Appends what is left of `word` after a split into `parts` (offsets within the word).
void AppendParts(const SplitText::Word& word, const std::vector<Match>& parts,
                 std::vector<SplitText::Word>* words) {
  for (const Match& part : parts) {
    if (part.begin == part.end) continue;
    words->push_back(
        {word.begin + part.begin, word.begin + part.end, word.at_start && part.begin == 0});
  }
}

void Invert(std::vector<Match>* parts) {
  for (Match& part : *parts) part.matched = !part.matched;
}

// Single characters that satisfy a predicate are the matches.
std::vector<Match> FindChars(std::string_view text, bool (*predicate)(char32_t)) {
  std::vector<Match> parts;
  size_t covered = 0;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    if (!predicate(NextChar(text, &end))) continue;
    if (covered < begin) parts.push_back({covered, begin, false});
    parts.push_back({begin, end, true});
    covered = end;
  }
  if (covered < text.size()) parts.push_back({covered, text.size(), false});
  return parts;
}

class SequencePreTokenizer : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(std::vector<std::unique_ptr<const PreTokenizer>> steps)
      : steps_(std::move(steps)) {}
  absl::Status Apply(SplitText* split) const override {
    for (const auto& step : steps_) LEXICO_RETURN_IF_ERROR(step->Apply(split));
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

// Splits at matches of a regular expression.
class RegexSplit : public PreTokenizer {
 public:
  RegexSplit(std::unique_ptr<const Regex> regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}
  absl::Status Apply(SplitText* split) const override {
    std::vector<SplitText::Word> words;
    for (const SplitText::Word& word : split->words) {
      LEXICO_ASSIGN_OR_RETURN(std::vector<Match> parts, regex_->FindAll(split->View(word)));
      if (invert_) Invert(&parts);
      AppendParts(word, ApplyBehavior(std::move(parts), behavior_), &words);
    }
    split->words = std::move(words);
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<const Regex> regex_;
  SplitBehavior behavior_;
  bool invert_;
};

// Splits at characters of a class.
class CharSplit : public PreTokenizer {
 public:
  CharSplit(bool (*predicate)(char32_t), SplitBehavior behavior)
      : predicate_(predicate), behavior_(behavior) {}
  absl::Status Apply(SplitText* split) const override {
    std::vector<SplitText::Word> words;
    for (const SplitText::Word& word : split->words) {
      AppendParts(word, ApplyBehavior(FindChars(split->View(word), predicate_), behavior_), &words);
    }
    split->words = std::move(words);
    return absl::OkStatus();
  }

 private:
  bool (*predicate_)(char32_t);
  SplitBehavior behavior_;
};

// Runs of \w, and runs of what is neither \w nor white space, are words.
class WhitespacePreTokenizer : public PreTokenizer {
 public:
  absl::Status Apply(SplitText* split) const override {
    std::vector<SplitText::Word> words;
    for (const SplitText::Word& word : split->words) {
      const std::string_view text = split->View(word);
      Kind previous = Kind::kSpace;
      for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
        const Kind kind = KindOf(NextChar(text, &end));
        if (kind != Kind::kSpace && kind == previous) {
          words.back().end = word.begin + end;
        } else if (kind != Kind::kSpace) {
          words.push_back({word.begin + begin, word.begin + end, word.at_start && begin == 0});
        }
        previous = kind;
      }
    }
    split->words = std::move(words);
    return absl::OkStatus();
  }

 private:
  enum class Kind { kSpace, kWord, kOther };
  static Kind KindOf(char32_t c) {
    if (IsWordChar(c)) return Kind::kWord;
    return IsWhitespace(c) ? Kind::kSpace : Kind::kOther;
  }
};

// A fixed number of characters a word.
class FixedLengthPreTokenizer : public PreTokenizer {
 public:
  explicit FixedLengthPreTokenizer(int64_t n_chars) : n_chars_(n_chars) {}
  absl::Status Apply(SplitText* split) const override {
    std::vector<SplitText::Word> words;
    for (const SplitText::Word& word : split->words) {
      const std::string_view text = split->View(word);
      for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
        for (int64_t i = 0; i < n_chars_ && end < text.size(); ++i) NextChar(text, &end);
        words.push_back({word.begin + begin, word.begin + end, word.at_start && begin == 0});
      }
    }
    split->words = std::move(words);
    return absl::OkStatus();
  }

 private:
  int64_t n_chars_;
};

class DelimiterSplit : public PreTokenizer {
 public:
  explicit DelimiterSplit(std::string delimiter) : delimiter_(std::move(delimiter)) {}
  absl::Status Apply(SplitText* split) const override {
    std::vector<SplitText::Word> words;
    for (const SplitText::Word& word : split->words) {
      const std::string_view text = split->View(word);
      for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(delimiter_, begin), text.size());
        AppendParts(word, {{begin, end, false}}, &words);
        begin = end + delimiter_.size();
      }
    }
    split->words = std::move(words);
    return absl::OkStatus();
  }

 private:
  std::string delimiter_;
};

// Writes every word in the byte-level alphabet, after an optional leading space and GPT-2's split.
class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, std::unique_ptr<const RegexSplit> gpt2_split)
      : add_prefix_space_(add_prefix_space), gpt2_split_(std::move(gpt2_split)) {}

  absl::Status Apply(SplitText* split) const override {
    if (add_prefix_space_) AddPrefixSpaces(split);
    if (gpt2_split_ != nullptr) LEXICO_RETURN_IF_ERROR(gpt2_split_->Apply(split));
    std::string text;
    text.reserve(split->text.size() + split->text.size() / 4);
    for (SplitText::Word& word : split->words) {
      const size_t begin = text.size();
      AppendByteLevel(split->View(word), &text);
      word.begin = begin;
      word.end = text.size();
    }
    split->text = std::move(text);
    return absl::OkStatus();
  }

 private:
  static void AddPrefixSpaces(SplitText* split) {
    std::string text;
    text.reserve(split->text.size() + split->words.size());
    for (SplitText::Word& word : split->words) {
      const std::string_view old = split->View(word);
      const size_t begin = text.size();
      if (!old.starts_with(' ')) text.push_back(' ');
      text.append(old);
      word.begin = begin;
      word.end = text.size();
    }
    split->text = std::move(text);
  }

  bool add_prefix_space_;
  std::unique_ptr<const RegexSplit> gpt2_split_;  // null without use_regex
};

enum class PrependScheme { kAlways, kFirst, kNever };

// Spaces become `replacement`, one is put in front, and every one begins a word.
class MetaspacePreTokenizer : public PreTokenizer {
 public:
  MetaspacePreTokenizer(std::string replacement, PrependScheme scheme, bool split)
      : replacement_(std::move(replacement)), scheme_(scheme), split_(split) {}

  absl::Status Apply(SplitText* split) const override {
    std::string text;
    text.reserve(split->text.size() + split->text.size() / 2);
    std::vector<SplitText::Word> words;
    for (const SplitText::Word& word : split->words) {
      const size_t begin = text.size();
      AppendReplaced(split->View(word), word.at_start, &text);
      const SplitText::Word whole{begin, text.size(), word.at_start};
      if (split_) {
        AppendWords(std::string_view(text).substr(begin), whole, &words);
      } else {
        words.push_back(whole);
      }
    }
    split->text = std::move(text);
    split->words = std::move(words);
    return absl::OkStatus();
  }

 private:
  void AppendReplaced(std::string_view old, bool at_start, std::string* text) const {
    const bool has_it = old.starts_with(' ') || old.starts_with(replacement_);
    const bool wants_it =
        scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && at_start);
    if (wants_it && !has_it) text->append(replacement_);
    for (const char c : old) {
      if (c == ' ') {
        text->append(replacement_);
      } else {
        text->push_back(c);
      }
    }
  }

  void AppendWords(std::string_view text, const SplitText::Word& whole,
                   std::vector<SplitText::Word>* words) const {
    std::vector<Match> parts;
    size_t covered = 0;
    for (size_t at; (at = text.find(replacement_, covered)) != std::string_view::npos;
         covered = at + replacement_.size()) {
      if (covered < at) parts.push_back({covered, at, false});
      parts.push_back({at, at + replacement_.size(), true});
    }
    if (covered < text.size()) parts.push_back({covered, text.size(), false});
    AppendParts(whole, ApplyBehavior(std::move(parts), SplitBehavior::kMergedWithNext), words);
  }

  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

using Result = absl::StatusOr<std::unique_ptr<const PreTokenizer>>;

absl::StatusOr<SplitBehavior> ReadBehavior(const Component& component, std::string_view otherwise) {
  LEXICO_ASSIGN_OR_RETURN(const std::string name, component.String("behavior", otherwise));
  if (const auto behavior = SplitBehaviorOf(name)) return *behavior;
  return component.Error(fmt::format("unknown behavior '{}'", name));
}

Result ReadSplit(const Component& component) {
  LEXICO_ASSIGN_OR_RETURN(const PatternSpec pattern, ReadPattern(component));
  LEXICO_ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(component, ""));
  LEXICO_ASSIGN_OR_RETURN(const bool invert, component.Bool("invert"));
  auto regex =
      pattern.is_regex ? Regex::Compile(pattern.text) : Regex::Compile(Regex::Escape(pattern.text));
  if (!regex.ok()) return base::Annotate(regex.status(), component.path());
  return std::make_unique<RegexSplit>(*std::move(regex), behavior, invert);
}

Result ReadByteLevel(const Component& component) {
  LEXICO_ASSIGN_OR_RETURN(const bool add_prefix_space, component.Bool("add_prefix_space"));
  LEXICO_ASSIGN_OR_RETURN(const bool use_regex, component.Bool("use_regex", true));
  std::unique_ptr<const RegexSplit> split;
  if (use_regex) {
    LEXICO_ASSIGN_OR_RETURN(auto regex, Regex::Compile(kGpt2Pattern));
    split = std::make_unique<RegexSplit>(std::move(regex), SplitBehavior::kIsolated, false);
  }
  return std::make_unique<ByteLevelPreTokenizer>(add_prefix_space, std::move(split));
}

Result ReadMetaspace(const Component& component) {
  LEXICO_ASSIGN_OR_RETURN(const char32_t replacement, component.Char("replacement"));
  LEXICO_ASSIGN_OR_RETURN(std::string scheme, component.String("prepend_scheme", "always"));
  LEXICO_ASSIGN_OR_RETURN(const bool add_prefix_space, component.Bool("add_prefix_space", true));
  LEXICO_ASSIGN_OR_RETURN(const bool split, component.Bool("split", true));
  if (!add_prefix_space && scheme != "never") {
    return component.Error(fmt::format(
        "add_prefix_space is false but prepend_scheme is '{}'; it must be 'never'", scheme));
  }
  PrependScheme parsed = PrependScheme::kAlways;
  if (scheme == "first") {
    parsed = PrependScheme::kFirst;
  } else if (scheme == "never") {
    parsed = PrependScheme::kNever;
  } else if (scheme != "always") {
    return component.Error(fmt::format("unknown prepend_scheme '{}'", scheme));
  }
  std::string text;
  AppendChar(replacement, &text);
  return std::make_unique<MetaspacePreTokenizer>(std::move(text), parsed, split);
}

Result Read(const Component& component, int depth);

Result ReadSequence(const Component& component, int depth) {
  if (depth >= base::kComponentDepthMax) {
    return component.Error(
        fmt::format("nested deeper than {} components", base::kComponentDepthMax));
  }
  LEXICO_ASSIGN_OR_RETURN(const auto list, component.List("pretokenizers"));
  std::vector<std::unique_ptr<const PreTokenizer>> steps;
  for (const Component& element : list) {
    LEXICO_ASSIGN_OR_RETURN(auto step, Read(element, depth + 1));
    steps.push_back(std::move(step));
  }
  return std::make_unique<SequencePreTokenizer>(std::move(steps));
}

Result ReadBert() {
  std::vector<std::unique_ptr<const PreTokenizer>> steps;
  steps.push_back(std::make_unique<CharSplit>(&IsWhitespace, SplitBehavior::kRemoved));
  steps.push_back(std::make_unique<CharSplit>(&IsPunctuation, SplitBehavior::kIsolated));
  return std::make_unique<SequencePreTokenizer>(std::move(steps));
}

Result Read(const Component& component, int depth) {
  LEXICO_ASSIGN_OR_RETURN(const std::string type, component.Type());
  if (type == "Sequence") return ReadSequence(component, depth);
  if (type == "Split") return ReadSplit(component);
  if (type == "ByteLevel") return ReadByteLevel(component);
  if (type == "Metaspace") return ReadMetaspace(component);
  if (type == "Whitespace") return std::make_unique<WhitespacePreTokenizer>();
  if (type == "BertPreTokenizer") return ReadBert();
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharSplit>(&IsWhitespace, SplitBehavior::kRemoved);
  }
  if (type == "Digits") {
    LEXICO_ASSIGN_OR_RETURN(const bool individual, component.Bool("individual_digits"));
    return std::make_unique<CharSplit>(
        &IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    LEXICO_ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(component, "Isolated"));
    return std::make_unique<CharSplit>(&IsPunctuation, behavior);
  }
  if (type == "CharDelimiterSplit") {
    LEXICO_ASSIGN_OR_RETURN(const char32_t delimiter, component.Char("delimiter"));
    std::string text;
    AppendChar(delimiter, &text);
    return std::make_unique<DelimiterSplit>(std::move(text));
  }
  if (type == "FixedLength") {
    LEXICO_ASSIGN_OR_RETURN(const int64_t n_chars, component.Int("length", 1, INT32_MAX));
    return std::make_unique<FixedLengthPreTokenizer>(n_chars);
  }
  return component.Unsupported(type,
                               "Sequence, Split, ByteLevel, Metaspace, Whitespace, "
                               "WhitespaceSplit, Digits, Punctuation, BertPreTokenizer, "
                               "CharDelimiterSplit, FixedLength");
}

}  // namespace

absl::StatusOr<std::unique_ptr<const PreTokenizer>> ReadPreTokenizer(const Component& component) {
  if (component.IsNull()) return nullptr;
  return Read(component, 0);
}

}  // namespace lexico::worker
