#include "worker/tokenizer/incremental_decoder.h"

#include <optional>
#include <utility>

#include "worker/tokenizer/decoder.h"
#include "worker/tokenizer/tokenizer_parts.h"

namespace lexico::worker {

IncrementalDecoder::IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer,
                                       bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      stream_(std::make_unique<DecoderStream>(tokenizer_->parts_->decoder)) {}

IncrementalDecoder::~IncrementalDecoder() = default;
IncrementalDecoder::IncrementalDecoder(IncrementalDecoder&&) noexcept = default;
IncrementalDecoder& IncrementalDecoder::operator=(IncrementalDecoder&&) noexcept = default;

std::string IncrementalDecoder::Push(int32_t id) {
  const auto token = tokenizer_->parts_->TokenToDecode(id, skip_special_);
  if (!token.has_value()) return "";
  stream_->PushToken(*token);
  return stream_->TakeText();
}

std::string IncrementalDecoder::Flush() {
  stream_->Finish();
  std::string rest = stream_->TakeText();
  stream_ = std::make_unique<DecoderStream>(tokenizer_->parts_->decoder);
  return rest;
}

}  // namespace lexico::worker
