// A random model small enough to train dictionaries for in a second, and text for it.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "proto/base/check.h"
#include "proto/base/split_mix.h"
#include "tests/support/temp_dir.h"
#include "tools/random_model/random_model.h"
#include "tools/train_dictionary/train_dictionary.h"

namespace lexico::train_dictionary {

// 2 layers, 2 KV heads of 16, 2,048 positions.
inline constexpr random_model::Preset kTiny = {
    "tiny", "LlamaForCausalLM", "llama", 2, 64, 96, 4, 2, 16, 512, 2048, 1e-5, 1e4, 0, true, false};

class TrainingFixture {
 public:
  TrainingFixture() {
    const absl::Status written = random_model::WriteRandomModel(
        kTiny, {.out = dir_.File("model"), .n_atoms = 0, .threads = 1}, [](double) {});
    LEXICO_CHECK(written.ok());
    std::filesystem::copy_file("tests/golden/tokenizer/base_bytes.json",
                               dir_.File("model/tokenizer.json"));
    dir_.Write("text", Words(40000, 1));
  }

  // About `bytes` bytes of words, in lines.
  static std::string Words(size_t bytes, uint64_t seed) {
    std::string text;
    for (uint64_t i = 0; text.size() < bytes; ++i) {
      const uint64_t random = base::SplitMix(seed * 1000003 + i);
      for (uint64_t j = 0; j < 2 + random % 6; ++j) {
        text += static_cast<char>('a' + (random >> (8 + 5 * j)) % 26);
      }
      text += random % 11 == 0 ? ".\n" : " ";
    }
    return text;
  }

  Options Small() const {
    return {.model_dir = dir_.File("model"),
            .text_files = {dir_.File("text")},
            .out = dir_.File("out.safetensors"),
            .n_atoms = 32,
            .sparsity = 3,
            .n_positions = 512,
            .window_tokens = 128,
            .n_samples = 1500,
            .n_rounds = 4,
            .n_passes = 1,
            .threads = 1};
  }
  static absl::StatusOr<Outcome> Train(const Options& options) {
    return TrainDictionary(options, [](const Progress&) {});
  }
  const tests::TempDir& dir() const { return dir_; }

 private:
  tests::TempDir dir_;
};

}  // namespace lexico::train_dictionary
