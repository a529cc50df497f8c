#include "tests/worker/tokenizer_goldens.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace lexico::worker {
namespace {

std::string RealPath(const std::string& name) {
  if (name == "lexico-20m") return "models/lexico-20m/tokenizer.json";
  if (name == "stories260K") return SharedFolder() + "/checkpoints/stories260K/tokenizer.json";
  return SharedFolder() + "/tokenizers/" + name + "/tokenizer.json";
}

// The base with the parts of a variant in the places of its own.
nlohmann::json Compose(const nlohmann::json& variant) {
  if (!variant["spec"].is_null()) return variant["spec"];
  nlohmann::json spec =
      ReadJson(kGoldenFolder + ("base_" + variant["base"].get<std::string>()) + ".json");
  for (const auto& [key, value] : variant["parts"].items()) {
    if (key != "model") {
      spec[key] = value;
      continue;
    }
    for (const auto& [field, field_value] : value.items()) {
      if (field == "drop_bytes") {
        spec["model"]["vocab"].erase("<0xE6>");
        spec["model"]["vocab"].erase("<0xF0>");
      } else {
        spec["model"][field] = field_value;
      }
    }
  }
  return spec;
}

}  // namespace

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path << "; run from the root of the source tree";
  return nlohmann::json::parse(file);
}

std::string SharedFolder() {
  const char* folder = std::getenv("LEXICO_SHARED_DIR");
  return folder != nullptr ? folder : "../shared";
}

const std::vector<std::string>& GoldenTexts() {
  static const auto texts =
      ReadJson(std::string(kGoldenFolder) + "strings.json").get<std::vector<std::string>>();
  return texts;
}

std::vector<GoldenTokenizer> VariantTokenizers() {
  const nlohmann::json variants = ReadJson(std::string(kGoldenFolder) + "variants.json");
  const nlohmann::json goldens = ReadJson(std::string(kGoldenFolder) + "golden_variants.json");
  std::vector<GoldenTokenizer> all;
  for (size_t i = 0; i < variants.size(); ++i) {
    const std::string name = variants[i]["name"];
    EXPECT_EQ(name, goldens[i]["name"]);
    auto tokenizer = Tokenizer::FromJson(Compose(variants[i]).dump());
    EXPECT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    if (tokenizer.ok()) all.push_back({name, *std::move(tokenizer), goldens[i]});
  }
  return all;
}

GoldenTokenizer RealTokenizer(const std::string& name) {
  const std::string path = RealPath(name);
  if (!std::filesystem::exists(path)) return {name, nullptr, {}};
  auto tokenizer = Tokenizer::Load(path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  if (!tokenizer.ok()) return {name, nullptr, {}};
  return {name, *std::move(tokenizer), ReadJson(kGoldenFolder + ("golden_" + name) + ".json")};
}

}  // namespace lexico::worker
