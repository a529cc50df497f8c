// Tests, methods and global functions of jinja_builtins.h.
#include "worker/tokenizer/jinja_builtins.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/jinja_strings.h"

namespace lexico::worker::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// Tests of the value alone; nullopt when there is no such test.
std::optional<bool> TypeTest(const std::string& name, const Value& value) {
  const bool is_bool = value.AsBool() != nullptr;
  if (name == "defined") return !value.IsUndefined();
  if (name == "undefined") return value.IsUndefined();
  if (name == "none") return value.IsNone();
  if (name == "string") return value.AsString() != nullptr;
  if (name == "boolean") return is_bool;
  if (name == "true") return is_bool && *value.AsBool();
  if (name == "false") return is_bool && !*value.AsBool();
  if (name == "number") return value.IsNumber() || is_bool;
  if (name == "integer") return value.AsInt() != nullptr;
  if (name == "float") return value.AsDouble() != nullptr;
  if (name == "mapping") return value.AsDict() != nullptr;
  if (name == "callable") return value.AsFunction() != nullptr;
  if (name == "iterable" || name == "sequence") {
    return value.AsString() != nullptr || value.AsList() != nullptr || value.AsDict() != nullptr ||
           value.IsUndefined();
  }
  return std::nullopt;
}

absl::StatusOr<bool> IntegerTest(const std::string& name, const Value& value,
                                 const Arguments& args) {
  const int64_t* number = value.AsInt();
  if (number == nullptr) {
    return absl::InvalidArgumentError(fmt::format("test '{}' is for integers", name));
  }
  if (name == "even") return *number % 2 == 0;
  if (name == "odd") return *number % 2 != 0;
  const Value* divisor = args.Get(0, "num");
  if (divisor == nullptr || divisor->AsInt() == nullptr || *divisor->AsInt() == 0) {
    return absl::InvalidArgumentError("test 'divisibleby' needs an integer other than 0");
  }
  return *divisor->AsInt() == -1 || *number % *divisor->AsInt() == 0;
}

Result ListOfTexts(std::vector<std::string> texts) {
  List list;
  for (std::string& text : texts) list.push_back(Value(std::move(text)));
  return Value::MakeList(std::move(list));
}

// Whether `text` starts (or ends) with the argument, or with one of a list.
absl::StatusOr<bool> HasAffix(const std::string& text, const Arguments& args, bool at_start) {
  const Value* affix = args.Get(0, "prefix");
  const auto matches = [&](const Value& value) {
    const std::string* part = value.AsString();
    return part != nullptr && (at_start ? text.starts_with(*part) : text.ends_with(*part));
  };
  if (affix != nullptr && affix->AsString() != nullptr) return matches(*affix);
  if (affix != nullptr && affix->AsList() != nullptr) {
    return std::ranges::any_of(*affix->AsList(), matches);
  }
  return absl::InvalidArgumentError("startswith and endswith need a string");
}

Result SplitMethod(const std::string& text, const std::string& name, const Arguments& args) {
  const Value* separator = args.Get(0, "sep");
  const Value* limit = args.Get(1, "maxsplit");
  const int64_t n = limit != nullptr && limit->AsInt() != nullptr ? *limit->AsInt() : -1;
  const bool has_separator = separator != nullptr && separator->AsString() != nullptr;
  const std::string by = has_separator ? *separator->AsString() : "";
  if (has_separator && by.empty()) return absl::InvalidArgumentError("empty separator");
  if (name == "split" || n < 0) return ListOfTexts(Split(text, by, n));
  // rsplit: the first parts are joined again.
  if (!has_separator) return absl::InvalidArgumentError("rsplit with a limit needs a separator");
  std::vector<std::string> parts = Split(text, by, -1);
  while (static_cast<int64_t>(parts.size()) > n + 1) {
    parts[1] = parts[0] + by + parts[1];
    parts.erase(parts.begin());
  }
  return ListOfTexts(std::move(parts));
}

Result StripMethod(const std::string& text, const std::string& name, const Arguments& args) {
  const Value* set = args.Get(0, "chars");
  const bool has_set = set != nullptr && set->AsString() != nullptr;
  if (has_set && set->AsString()->empty()) return Value(text);
  const Side side = name == "lstrip" ? Side::kLeft : name == "rstrip" ? Side::kRight : Side::kBoth;
  return Value(Strip(text, has_set ? *set->AsString() : "", side));
}

Result FindMethod(const std::string& text, const std::string& name, const Arguments& args) {
  const Value* part = args.Get(0, "sub");
  if (part == nullptr || part->AsString() == nullptr) {
    return absl::InvalidArgumentError(fmt::format("{} needs a string", name));
  }
  const std::string& wanted = *part->AsString();
  if (name == "count") {
    int64_t count = 0;
    if (wanted.empty()) return Value(CharCount(text) + 1);
    for (size_t at = 0; (at = text.find(wanted, at)) != std::string::npos; at += wanted.size()) {
      ++count;
    }
    return Value(count);
  }
  const size_t at = name == "find" || name == "index" ? text.find(wanted) : text.rfind(wanted);
  if (at == std::string::npos) {
    if (name == "index") return absl::InvalidArgumentError("substring not found");
    return Value(int64_t{-1});
  }
  return Value(CharCount(std::string_view(text).substr(0, at)));
}

Result StringMethod(const std::string& text, const std::string& name, const Arguments& args,
                    Budget* budget) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") return StripMethod(text, name, args);
  if (name == "split" || name == "rsplit") return SplitMethod(text, name, args);
  if (name == "find" || name == "rfind" || name == "count" || name == "index") {
    return FindMethod(text, name, args);
  }
  if (name == "startswith" || name == "endswith") {
    LEXICO_ASSIGN_OR_RETURN(const bool has, HasAffix(text, args, name == "startswith"));
    return Value(has);
  }
  if (name == "splitlines") return ListOfTexts(SplitLines(text));
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string part = args.positional.empty() ? "" : args.positional[0].ToText();
    if (name == "removeprefix") {
      return Value(text.starts_with(part) ? text.substr(part.size()) : text);
    }
    return Value(text.ends_with(part) ? text.substr(0, text.size() - part.size()) : text);
  }
  if (name == "isdigit") {
    const bool all = std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
    return Value(!text.empty() && all);
  }
  // The same as the filters of these names.
  for (const char* filter : {"upper", "lower", "title", "capitalize", "replace"}) {
    if (name == filter) return ApplyFilter(name, Value(text), args, budget);
  }
  if (name == "join") {
    Arguments separator;
    separator.positional.push_back(Value(text));
    return ApplyFilter("join", args.positional.empty() ? Value() : args.positional[0], separator,
                       budget);
  }
  return absl::InvalidArgumentError(fmt::format("str has no method '{}'", name));
}

Result DictMethod(const Dict& dict, const std::string& name, const Arguments& args) {
  if (name == "get") {
    const Value* key = args.Get(0, "key");
    const Value* found = key != nullptr && key->AsString() ? dict.Find(*key->AsString()) : nullptr;
    const Value* otherwise = args.Get(1, "default");
    return found != nullptr ? *found : otherwise != nullptr ? *otherwise : Value(None{});
  }
  List list;
  for (const auto& [key, value] : dict.items) {
    if (name == "keys") {
      list.push_back(Value(key));
    } else if (name == "values") {
      list.push_back(value);
    } else if (name == "items") {
      LEXICO_ASSIGN_OR_RETURN(Value pair, Value::MakeList({Value(key), value}));
      list.push_back(std::move(pair));
    }
  }
  if (name != "keys" && name != "values" && name != "items") {
    return absl::InvalidArgumentError(fmt::format("dict has no method '{}'", name));
  }
  return Value::MakeList(std::move(list));
}

Result Range(const Arguments& args, Budget* budget) {
  int64_t parts[3] = {0, 0, 1};
  const size_t n = args.positional.size();
  if (n < 1 || n > 3) return absl::InvalidArgumentError("range takes one to three integers");
  for (size_t i = 0; i < n; ++i) {
    const int64_t* number = args.positional[i].AsInt();
    if (number == nullptr) return absl::InvalidArgumentError("range takes integers");
    parts[n == 1 ? 1 : i] = *number;
  }
  if (parts[2] == 0) return absl::InvalidArgumentError("the step of range must not be 0");
  List list;
  for (int64_t i = parts[0]; parts[2] > 0 ? i < parts[1] : i > parts[1];) {
    LEXICO_RETURN_IF_ERROR(budget->TakeSteps(1));
    list.push_back(Value(i));
    if (__builtin_add_overflow(i, parts[2], &i)) break;
  }
  return Value::MakeList(std::move(list));
}

Result MakeNamespace(const Arguments& args) {
  auto ns = std::make_shared<Namespace>();
  if (!args.positional.empty() && args.positional[0].AsDict() != nullptr) {
    ns->attributes = *args.positional[0].AsDict();
  }
  for (const auto& [name, value] : args.named.items) {
    if (value.AsNamespace() != nullptr || value.AsFunction() != nullptr) {
      return absl::InvalidArgumentError("a namespace cannot hold namespaces or functions");
    }
    ns->attributes.Set(name, value);
  }
  return Value(std::move(ns));
}

Result StrftimeNow(const Arguments& args) {
  const Value* format = args.Get(0, "format");
  if (format == nullptr || format->AsString() == nullptr || format->AsString()->size() > 256) {
    return absl::InvalidArgumentError("strftime_now needs a short format");
  }
  return Value(absl::FormatTime(*format->AsString(), absl::Now(), absl::UTCTimeZone()));
}

}  // namespace

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& value, const Arguments& args) {
  if (const auto result = TypeTest(name, value)) return *result;
  if (name == "even" || name == "odd" || name == "divisibleby") {
    return IntegerTest(name, value, args);
  }
  static const std::map<std::string, std::string> kComparisons = {
      {"eq", "=="},      {"equalto", "=="},    {"ne", "!="},    {"lt", "<"},
      {"lessthan", "<"}, {"greaterthan", ">"}, {"gt", ">"},     {"le", "<="},
      {"ge", ">="},      {"in", "in"},         {"sameas", "=="}};
  const auto comparison = kComparisons.find(name);
  if (comparison == kComparisons.end()) {
    return absl::InvalidArgumentError(fmt::format("unknown test '{}'", name));
  }
  if (args.positional.empty()) {
    return absl::InvalidArgumentError(fmt::format("test '{}' needs an argument", name));
  }
  return ApplyComparison(comparison->second, value, args.positional[0]);
}

absl::StatusOr<Value> CallMethod(const Value& value, const std::string& name, const Arguments& args,
                                 Budget* budget) {
  if (const std::string* text = value.AsString()) return StringMethod(*text, name, args, budget);
  if (const Dict* dict = value.AsDict()) return DictMethod(*dict, name, args);
  if (value.IsUndefined()) return GetAttribute(value, name);  // the error that names it
  return absl::InvalidArgumentError(fmt::format("{} has no method '{}'", value.TypeName(), name));
}

Dict GlobalFunctions(Budget* budget) {
  Dict globals;
  globals.Set("range",
              Value(Function([budget](const Arguments& args) { return Range(args, budget); })));
  globals.Set("namespace", Value(Function(&MakeNamespace)));
  globals.Set("dict",
              Value(Function([](const Arguments& args) { return Value::MakeDict(args.named); })));
  globals.Set("strftime_now", Value(Function(&StrftimeNow)));
  globals.Set("raise_exception", Value(Function([](const Arguments& args) -> Result {
                return absl::InvalidArgumentError(args.positional.empty()
                                                      ? "the template refused the conversation"
                                                      : args.positional[0].ToText());
              })));
  return globals;
}

}  // namespace lexico::worker::jinja
