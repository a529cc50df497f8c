#include "worker/tokenizer/decoder_steps.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "worker/tokenizer/byte_level.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Appends `text` with every `from` replaced by `to`.
void AppendReplaced(std::string_view text, std::string_view from, std::string_view to,
                    std::string* out) {
  size_t begin = 0;
  for (size_t at; (at = text.find(from, begin)) != std::string_view::npos;
       begin = at + from.size()) {
    out->append(text, begin, at - begin);
    out->append(to);
  }
  out->append(text, begin);
}

class JoinStep : public DecoderStep {
 public:
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    if (std::exchange(separate_, false)) out.Feed(" ", false);
    out.Feed(fragment, false);
    separate_ = ends;
  }
  void Finish(DecoderSink& out) override {
    separate_ = false;
    out.Feed("", true);
  }

 private:
  bool separate_ = false;  // a token ended: another one is separated from it
};

class ByteLevelStep : public DecoderStep {
 public:
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    token_.append(fragment);
    if (!ends) return;
    AppendBytes(token_);
    token_.clear();
    std::string text;
    bytes_.erase(0, AppendLossy(bytes_, /*final=*/false, &text));
    if (!text.empty()) out.Feed(text, false);
  }
  void Finish(DecoderSink& out) override {
    std::string text;
    AppendLossy(bytes_, /*final=*/true, &text);
    bytes_.clear();
    out.Feed(text, true);
  }

 private:
  void AppendBytes(std::string_view token) {
    const size_t old_size = bytes_.size();
    for (size_t offset = 0; offset < token.size();) {
      const auto byte = ByteLevelToByte(NextChar(token, &offset));
      if (!byte.has_value()) {
        bytes_.resize(old_size);
        bytes_.append(token);
        return;
      }
      bytes_.push_back(static_cast<char>(*byte));
    }
  }

  std::string token_;  // the current token so far
  std::string bytes_;  // an unfinished character
};

class ByteFallbackStep : public DecoderStep {
 public:
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    if (!passing_) {
      token_.append(fragment);
      if (!ends && token_.size() <= kTokenBytes) return;
      if (const auto byte = ends ? ByteOf(token_) : std::nullopt) {
        run_.push_back(static_cast<char>(*byte));
        token_.clear();
        return;
      }
      EndRun(out);
      fragment = token_;
    }
    out.Feed(fragment, ends);
    passing_ = !ends;
    token_.clear();
  }
  void Finish(DecoderSink& out) override { EndRun(out); }

 private:
  static constexpr size_t kTokenBytes = 6;  // of "<0x41>"

  // Two digits, or as the library reads them a plus sign and one.
  static std::optional<uint8_t> ByteOf(std::string_view token) {
    if (token.size() != kTokenBytes || !token.starts_with("<0x") || !token.ends_with('>')) {
      return std::nullopt;
    }
    const auto high = token[3] == '+' ? std::optional(0) : HexDigit(token[3]);
    const auto low = HexDigit(token[4]);
    if (!high.has_value() || !low.has_value()) return std::nullopt;
    return static_cast<uint8_t>(*high * 16 + *low);
  }
  static std::optional<int> HexDigit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return std::nullopt;
  }

  void EndRun(DecoderSink& out) {
    if (run_.empty()) return;
    if (CheckUtf8(run_).ok()) {
      out.Feed(run_, true);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) out.Feed(kReplacement, true);
    }
    run_.clear();
  }

  std::string token_;     // the current token while it may still be a byte
  bool passing_ = false;  // the current token is none: its fragments go through
  std::string run_;       // bytes of the run
};

class FuseStep : public DecoderStep {
 public:
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    out.Feed(fragment, false);
  }
  void Finish(DecoderSink& out) override { out.Feed("", true); }
};

class ReplaceStep : public DecoderStep {
 public:
  explicit ReplaceStep(const Replacer& replacer) : replacer_(replacer) {}
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    held_.append(fragment);
    if (ends) {
      out.Feed(replacer_.Apply(held_).value_or(held_), true);
      held_.clear();
    } else if (!replacer_.literal().empty()) {
      ForwardCertain(out);
    }
  }
  void Finish(DecoderSink& out) override {}

 private:
  // Everything but the longest end that could be the begin of a match.
  void ForwardCertain(DecoderSink& out) {
    const std::string& literal = replacer_.literal();
    std::string text;
    size_t begin = 0;
    for (size_t at; (at = held_.find(literal, begin)) != std::string::npos;
         begin = at + literal.size()) {
      text.append(held_, begin, at - begin);
      text.append(replacer_.content());
    }
    const std::string_view rest = std::string_view(held_).substr(begin);
    size_t n_open = std::min(rest.size(), literal.size() - 1);
    while (!literal.starts_with(rest.substr(rest.size() - n_open))) --n_open;
    text.append(rest.substr(0, rest.size() - n_open));
    held_.erase(0, held_.size() - n_open);
    if (!text.empty()) out.Feed(text, false);
  }

  const Replacer& replacer_;
  std::string held_;
};

class StripStep : public DecoderStep {
 public:
  StripStep(char32_t content, int64_t start, int64_t stop) : start_(start), stop_(stop) {
    AppendChar(content, &content_);
  }
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    std::string text;
    for (size_t begin = 0; begin < fragment.size();) {
      const size_t length = Utf8Length(fragment[begin]);
      Take(fragment.substr(begin, length), &text);
      begin += length;
    }
    if (ends) {
      n_start_ = n_held_ = 0;
      in_front_ = true;
    }
    if (ends || !text.empty()) out.Feed(text, ends);
  }
  void Finish(DecoderSink& out) override {}

 private:
  void Take(std::string_view c, std::string* text) {
    const bool is_content = c == content_;
    in_front_ = in_front_ && is_content && n_start_ < start_;
    if (in_front_) {
      ++n_start_;
    } else if (is_content && n_held_ < stop_) {
      ++n_held_;
    } else if (is_content) {
      text->append(c);  // as many stay held as may be stripped
    } else {
      for (; n_held_ > 0; --n_held_) text->append(content_);
      text->append(c);
    }
  }

  std::string content_;
  int64_t start_;
  int64_t stop_;
  bool in_front_ = true;  // of the current token
  int64_t n_start_ = 0;   // stripped in front of it
  int64_t n_held_ = 0;    // its trailing `content_` that end of token would strip
};

class MetaspaceStep : public DecoderStep {
 public:
  MetaspaceStep(char32_t replacement, bool drop_first) : dropping_(drop_first) {
    AppendChar(replacement, &replacement_);
  }
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    std::string text;
    AppendReplaced(fragment, replacement_, dropping_ ? "" : " ", &text);
    if (ends) dropping_ = false;
    out.Feed(text, ends);
  }
  void Finish(DecoderSink& out) override {}

 private:
  std::string replacement_;
  bool dropping_;
};

class BpeStep : public DecoderStep {
 public:
  explicit BpeStep(std::string suffix) : suffix_(std::move(suffix)) {}
  void Feed(std::string_view fragment, bool ends, DecoderSink& out) override {
    if (std::exchange(complete_, false)) Forward(" ", out);
    token_.append(fragment);
    complete_ = ends;
  }
  void Finish(DecoderSink& out) override {
    if (std::exchange(complete_, false)) Forward("", out);
  }

 private:
  void Forward(std::string_view instead, DecoderSink& out) {
    std::string text;
    AppendReplaced(token_, suffix_, instead, &text);
    token_.clear();
    out.Feed(text, true);
  }

  std::string suffix_;
  std::string token_;      // held until it is known whether it is the last
  bool complete_ = false;  // token_ ended
};

}  // namespace

std::unique_ptr<DecoderStep> MakeJoinStep() { return std::make_unique<JoinStep>(); }
std::unique_ptr<DecoderStep> MakeByteLevelStep() { return std::make_unique<ByteLevelStep>(); }
std::unique_ptr<DecoderStep> MakeByteFallbackStep() { return std::make_unique<ByteFallbackStep>(); }
std::unique_ptr<DecoderStep> MakeFuseStep() { return std::make_unique<FuseStep>(); }
std::unique_ptr<DecoderStep> MakeReplaceStep(const Replacer& replacer) {
  return std::make_unique<ReplaceStep>(replacer);
}
std::unique_ptr<DecoderStep> MakeStripStep(char32_t content, int64_t start, int64_t stop) {
  return std::make_unique<StripStep>(content, start, stop);
}
std::unique_ptr<DecoderStep> MakeMetaspaceStep(char32_t replacement, bool drop_first) {
  return std::make_unique<MetaspaceStep>(replacement, drop_first);
}
std::unique_ptr<DecoderStep> MakeBpeStep(std::string suffix) {
  return std::make_unique<BpeStep>(std::move(suffix));
}

}  // namespace lexico::worker
