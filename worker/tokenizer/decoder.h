// The decoder of a tokenizer.json: joins tokens to text. Written as a chain of streaming steps, so
// that decoding a whole answer and decoding it token by token are the same code.
//
// A token passes through the chain in fragments; the last one says so. A step forwards what no
// later fragment can change and holds the rest back.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/tokenizer/component.h"

namespace lexico::worker {

// Where a step sends its output: the next step, or the text at the end.
class DecoderSink {
 public:
  virtual ~DecoderSink() = default;
  // A fragment (whole characters) of the current token; `ends`: the token ends with it.
  virtual void Feed(std::string_view fragment, bool ends) = 0;
};

// One step at work on one answer. Thread-compatible.
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;
  virtual void Feed(std::string_view fragment, bool ends, DecoderSink& out) = 0;
  // After the last token: forwards what was held back.
  virtual void Finish(DecoderSink& out) = 0;
};

// The description of a chain; makes streams. Immutable; may be used from any thread.
class Decoder {
 public:
  using StepMaker = std::function<std::unique_ptr<DecoderStep>()>;

  // Known types: Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, BPEDecoder.
  // InvalidArgument names any other. Null: tokens are joined with spaces.
  static absl::StatusOr<Decoder> Read(const Component& component);

  // In the order of the chain.
  const std::vector<StepMaker>& makers() const { return makers_; }

 private:
  std::vector<StepMaker> makers_;
};

// One answer on its way through a chain. Thread-compatible.
class DecoderStream {
 public:
  explicit DecoderStream(const Decoder& decoder);
  ~DecoderStream();
  DecoderStream(const DecoderStream&) = delete;
  DecoderStream& operator=(const DecoderStream&) = delete;

  void PushToken(std::string_view token);
  // No more tokens: everything held back becomes text.
  void Finish();
  // The text that became certain since the last call.
  std::string TakeText();

 private:
  class Link;

  std::vector<std::unique_ptr<DecoderStep>> steps_;
  std::vector<Link> links_;  // links_[i] is the input of step i, the last collects the text
  std::string text_;
};

}  // namespace lexico::worker
