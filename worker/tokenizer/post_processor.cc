#include "worker/tokenizer/post_processor.h"

#include <utility>

#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

absl::StatusOr<std::vector<int32_t>> SpecialIds(const Component& template_component,
                                                const std::string& name) {
  const Component entry = template_component.Field("special_tokens").Field(name.c_str());
  if (entry.IsNull()) {
    return template_component.Error(
        fmt::format("the template uses '{}', which special_tokens does not list", name));
  }
  std::vector<int32_t> ids;
  LEXICO_ASSIGN_OR_RETURN(const auto list, entry.List("ids"));
  for (const Component& id : list) {
    if (!id.value().is_number_unsigned() || id.value().get<uint64_t>() >= base::kVocabMax) {
      return id.Error("must be a token id");
    }
    ids.push_back(id.value().get<int32_t>());
  }
  return ids;
}

absl::StatusOr<PostProcessor> ReadTemplate(const Component& component) {
  PostProcessor processor;
  int n_texts = 0;
  LEXICO_ASSIGN_OR_RETURN(const auto pieces, component.List("single"));
  for (const Component& piece : pieces) {
    if (const Component special = piece.Field("SpecialToken"); !special.IsNull()) {
      LEXICO_ASSIGN_OR_RETURN(const std::string name, special.String("id"));
      LEXICO_ASSIGN_OR_RETURN(const auto ids, SpecialIds(component, name));
      auto& side = n_texts == 0 ? processor.before : processor.after;
      side.insert(side.end(), ids.begin(), ids.end());
      continue;
    }
    LEXICO_ASSIGN_OR_RETURN(const std::string sequence, piece.Field("Sequence").String("id"));
    if (sequence != "A") return piece.Error("the template of a single text uses a second text");
    ++n_texts;
  }
  if (n_texts != 1) {
    return component.Error(
        fmt::format("'single' must hold the text exactly once, it holds it {} times", n_texts));
  }
  return processor;
}

// "cls": ["<s>", 0]
absl::StatusOr<int32_t> ReadNamedId(const Component& component, const char* field) {
  const Component pair = component.Field(field);
  const auto& value = pair.value();
  const bool ok = value.is_array() && value.size() == 2 && value[0].is_string() &&
                  value[1].is_number_unsigned() && value[1].get<uint64_t>() < base::kVocabMax;
  if (!ok) return pair.Error("must be a token and its id");
  return value[1].get<int32_t>();
}

absl::StatusOr<PostProcessor> ReadClsSep(const Component& component) {
  LEXICO_ASSIGN_OR_RETURN(const int32_t cls, ReadNamedId(component, "cls"));
  LEXICO_ASSIGN_OR_RETURN(const int32_t sep, ReadNamedId(component, "sep"));
  return PostProcessor{{cls}, {sep}};
}

absl::StatusOr<PostProcessor> ReadSequence(const Component& component) {
  PostProcessor processor;
  int n_adding = 0;
  LEXICO_ASSIGN_OR_RETURN(const auto list, component.List("processors"));
  for (const Component& element : list) {
    LEXICO_ASSIGN_OR_RETURN(const std::string type, element.Type());
    if (type == "ByteLevel") continue;
    if (type == "Sequence") return element.Error("a Sequence in a Sequence is not supported");
    if (++n_adding > 1) {
      return element.Error("a second component that adds tokens is not supported");
    }
    LEXICO_ASSIGN_OR_RETURN(processor, ReadPostProcessor(element));
  }
  return processor;
}

}  // namespace

absl::StatusOr<PostProcessor> ReadPostProcessor(const Component& component) {
  if (component.IsNull()) return PostProcessor{};
  LEXICO_ASSIGN_OR_RETURN(const std::string type, component.Type());
  if (type == "TemplateProcessing") return ReadTemplate(component);
  if (type == "BertProcessing" || type == "RobertaProcessing") return ReadClsSep(component);
  if (type == "ByteLevel") return PostProcessor{};
  if (type == "Sequence") return ReadSequence(component);
  return component.Unsupported(
      type, "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, Sequence");
}

}  // namespace lexico::worker
