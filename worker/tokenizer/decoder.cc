#include "worker/tokenizer/decoder.h"

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/decoder_steps.h"
#include "worker/tokenizer/replace.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

using Makers = std::vector<Decoder::StepMaker>;

absl::Status Read(const Component& component, int depth, Makers* makers);

absl::Status ReadSequence(const Component& component, int depth, Makers* makers) {
  if (depth >= base::kComponentDepthMax) {
    return component.Error(
        fmt::format("nested deeper than {} components", base::kComponentDepthMax));
  }
  LEXICO_ASSIGN_OR_RETURN(const auto list, component.List("decoders"));
  for (const Component& element : list) LEXICO_RETURN_IF_ERROR(Read(element, depth + 1, makers));
  return absl::OkStatus();
}

absl::Status ReadReplace(const Component& component, Makers* makers) {
  LEXICO_ASSIGN_OR_RETURN(Replacer replacer, Replacer::Read(component));
  // Shared with the streams, which end before the tokenizer that owns it.
  auto shared = std::make_shared<const Replacer>(std::move(replacer));
  makers->push_back([shared] { return MakeReplaceStep(*shared); });
  return absl::OkStatus();
}

absl::Status ReadStrip(const Component& component, Makers* makers) {
  LEXICO_ASSIGN_OR_RETURN(const char32_t content, component.Char("content"));
  LEXICO_ASSIGN_OR_RETURN(const int64_t start, component.Int("start", 0, INT32_MAX));
  LEXICO_ASSIGN_OR_RETURN(const int64_t stop, component.Int("stop", 0, INT32_MAX));
  makers->push_back([=] { return MakeStripStep(content, start, stop); });
  return absl::OkStatus();
}

absl::Status ReadMetaspace(const Component& component, Makers* makers) {
  LEXICO_ASSIGN_OR_RETURN(const char32_t replacement, component.Char("replacement"));
  LEXICO_ASSIGN_OR_RETURN(const std::string scheme, component.String("prepend_scheme", "always"));
  LEXICO_ASSIGN_OR_RETURN(const bool add_prefix, component.Bool("add_prefix_space", true));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return component.Error(fmt::format("unknown prepend_scheme '{}'", scheme));
  }
  if (!add_prefix && scheme != "never") {
    return component.Error(fmt::format(
        "add_prefix_space is false but prepend_scheme is '{}'; it must be 'never'", scheme));
  }
  const bool drop_first = scheme != "never";
  makers->push_back([=] { return MakeMetaspaceStep(replacement, drop_first); });
  return absl::OkStatus();
}

absl::Status ReadBpe(const Component& component, Makers* makers) {
  LEXICO_ASSIGN_OR_RETURN(const std::string suffix, component.String("suffix", "</w>"));
  if (suffix.empty()) return component.Error("'suffix' must not be empty");
  makers->push_back([suffix] { return MakeBpeStep(suffix); });
  return absl::OkStatus();
}

absl::Status Read(const Component& component, int depth, Makers* makers) {
  LEXICO_ASSIGN_OR_RETURN(const std::string type, component.Type());
  if (type == "Sequence") return ReadSequence(component, depth, makers);
  if (type == "Replace") return ReadReplace(component, makers);
  if (type == "Strip") return ReadStrip(component, makers);
  if (type == "Metaspace") return ReadMetaspace(component, makers);
  if (type == "BPEDecoder") return ReadBpe(component, makers);
  if (type == "ByteLevel") {
    makers->push_back(&MakeByteLevelStep);
  } else if (type == "ByteFallback") {
    makers->push_back(&MakeByteFallbackStep);
  } else if (type == "Fuse") {
    makers->push_back(&MakeFuseStep);
  } else {
    return component.Unsupported(type,
                                 "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, "
                                 "Metaspace, BPEDecoder");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Read(const Component& component) {
  Decoder decoder;
  if (component.IsNull()) {
    decoder.makers_.push_back(&MakeJoinStep);
    return decoder;
  }
  LEXICO_RETURN_IF_ERROR(worker::Read(component, 0, &decoder.makers_));
  return decoder;
}

// The input of a step, or with a null step the end of the chain.
class DecoderStream::Link : public DecoderSink {
 public:
  Link(DecoderStep* step, Link* next, std::string* text) : step_(step), next_(next), text_(text) {}
  void Feed(std::string_view fragment, bool ends) override {
    if (step_ == nullptr) {
      text_->append(fragment);
    } else {
      step_->Feed(fragment, ends, *next_);
    }
  }
  void Finish() {
    if (step_ != nullptr) step_->Finish(*next_);
  }

 private:
  DecoderStep* step_;
  Link* next_;
  std::string* text_;
};

DecoderStream::DecoderStream(const Decoder& decoder) {
  const size_t n_steps = decoder.makers().size();
  links_.reserve(n_steps + 1);  // links point at each other: no reallocation
  for (const Decoder::StepMaker& maker : decoder.makers()) {
    steps_.push_back(maker());
    links_.emplace_back(steps_.back().get(), links_.data() + links_.size() + 1, nullptr);
  }
  links_.emplace_back(nullptr, nullptr, &text_);
}

DecoderStream::~DecoderStream() = default;

void DecoderStream::PushToken(std::string_view token) { links_[0].Feed(token, /*ends=*/true); }

void DecoderStream::Finish() {
  for (Link& link : links_) link.Finish();
}

std::string DecoderStream::TakeText() { return std::exchange(text_, std::string()); }

}  // namespace lexico::worker
