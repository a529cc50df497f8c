// The fixtures of tests/golden/tokenizer: texts, tokenizers, and what Hugging Face tokenizers makes
// of them (make_goldens.py there wrote them).
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/tokenizer/tokenizer.h"

namespace lexico::worker {

inline constexpr char kGoldenFolder[] = "tests/golden/tokenizer/";

// A tokenizer with its goldens: "encode" and "decode" cases.
struct GoldenTokenizer {
  std::string name;
  std::shared_ptr<const Tokenizer> tokenizer;
  nlohmann::json goldens;
};

nlohmann::json ReadJson(const std::string& path);

// $LEXICO_SHARED_DIR, or shared/ beside the checkout. Data that is not part of the repository.
std::string SharedFolder();

// All texts; goldens refer to them by index.
const std::vector<std::string>& GoldenTexts();

// The small tokenizers of variants.json, one for every component.
std::vector<GoldenTokenizer> VariantTokenizers();

// Real tokenizers by name; the tokenizer is null when its file is not there.
GoldenTokenizer RealTokenizer(const std::string& name);
inline constexpr const char* kRealTokenizers[] = {"lexico-20m", "llama3", "qwen2.5", "stories260K"};

}  // namespace lexico::worker
