// Filters of jinja_builtins.h.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "proto/base/status.h"
#include "worker/tokenizer/jinja_builtins.h"
#include "worker/tokenizer/jinja_strings.h"

namespace lexico::worker::jinja {
namespace {

using Result = absl::StatusOr<Value>;
// A filter's value, its arguments, and what it may use up.
struct Call {
  const std::string& name;
  const Value& value;
  const Arguments& args;
  Budget* budget;

  std::string TextArg(size_t index, std::string_view arg_name, std::string_view otherwise) const {
    const Value* arg = args.Get(index, arg_name);
    return arg != nullptr ? arg->ToText() : std::string(otherwise);
  }
  int64_t IntArg(size_t index, std::string_view arg_name, int64_t otherwise) const {
    const Value* arg = args.Get(index, arg_name);
    return arg != nullptr && arg->AsInt() != nullptr ? *arg->AsInt() : otherwise;
  }
  bool FlagArg(size_t index, std::string_view arg_name, bool otherwise) const {
    const Value* arg = args.Get(index, arg_name);
    return arg != nullptr ? arg->Truthy() : otherwise;
  }
  absl::Status Wrong(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format("filter '{}': {}", name, what));
  }
  absl::Status WrongType() const {
    return Wrong(fmt::format("not for values of type {}", value.TypeName()));
  }
};
using Filter = Result (*)(const Call&);

// element.a.b, or a default.
Result PathOf(const Value& element, const std::string& path, const Value* otherwise) {
  Value at = element;
  for (const std::string& name : Split(path, ".", -1)) {
    int64_t index = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool is_index = parsed.ec == std::errc() && parsed.ptr == name.data() + name.size();
    LEXICO_ASSIGN_OR_RETURN(at, is_index ? GetItem(at, Value(index)) : GetAttribute(at, name));
  }
  return at.IsUndefined() && otherwise != nullptr ? *otherwise : at;
}

Result Length(const Call& c) {
  if (const std::string* text = c.value.AsString()) return Value(CharCount(*text));
  if (const List* list = c.value.AsList()) return Value(static_cast<int64_t>(list->size()));
  if (const Dict* dict = c.value.AsDict()) return Value(static_cast<int64_t>(dict->items.size()));
  if (c.value.IsUndefined()) return Value(int64_t{0});
  return c.WrongType();
}

Result ToJsonFilter(const Call& c) {
  const int64_t indent = std::min<int64_t>(c.IntArg(0, "indent", -1), 16);
  LEXICO_ASSIGN_OR_RETURN(std::string text, c.value.ToJson(static_cast<int>(indent)));
  return Value(std::move(text));
}

Result Join(const Call& c) {
  const std::string separator = c.TextArg(0, "d", "");
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  const Value* attribute = c.args.Get(1, "attribute");
  std::string out;
  for (size_t i = 0; i < list.size(); ++i) {
    Value element = list[i];
    if (attribute != nullptr) {
      LEXICO_ASSIGN_OR_RETURN(element, PathOf(list[i], attribute->ToText(), nullptr));
    }
    const std::string text = element.ToText();
    LEXICO_RETURN_IF_ERROR(c.budget->TakeBytes(text.size() + separator.size()));
    if (i > 0) out += separator;
    out += text;
  }
  return Value(std::move(out));
}

Result Default(const Call& c) {
  const bool missing =
      c.value.IsUndefined() || (c.FlagArg(1, "boolean", false) && !c.value.Truthy());
  if (!missing) return c.value;
  const Value* otherwise = c.args.Get(0, "default_value");
  return otherwise != nullptr ? *otherwise : Value(std::string());
}

Result FirstOrLast(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  if (list.empty()) return Value(Undefined{c.name + " of nothing"});
  return c.name == "first" ? list.front() : list.back();
}

Result Replace(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(std::string text,
                          ReplaceAll(c.value.ToText(), c.TextArg(0, "old", ""),
                                     c.TextArg(1, "new", ""), c.IntArg(2, "count", -1), c.budget));
  return Value(std::move(text));
}

Result Trim(const Call& c) {
  return Value(Strip(c.value.ToText(), c.TextArg(0, "chars", ""), Side::kBoth));
}

Result Case(const Call& c) {
  const std::string text = c.value.ToText();
  if (c.name == "upper") return Value(Upper(text));
  if (c.name == "lower") return Value(Lower(text));
  return Value(c.name == "title" ? Title(text) : Capitalize(text));
}

Result ToInt(const Call& c) {
  if (c.value.AsBool() != nullptr || c.value.AsInt() != nullptr) {
    return Value(static_cast<int64_t>(c.value.Number()));
  }
  double number = 0;
  if (const double* value = c.value.AsDouble()) {
    number = *value;
  } else {
    const std::string text = Strip(c.value.ToText(), "", Side::kBoth);
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || text.empty()) {
      return Value(c.IntArg(0, "default", 0));
    }
  }
  if (!(std::abs(number) < 9e18)) return Value(c.IntArg(0, "default", 0));
  return Value(static_cast<int64_t>(number));
}

Result ToFloat(const Call& c) {
  if (c.value.IsNumber() || c.value.AsBool() != nullptr) return Value(c.value.Number());
  const std::string text = Strip(c.value.ToText(), "", Side::kBoth);
  double number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) return Value(number);
  const Value* otherwise = c.args.Get(0, "default");
  return otherwise != nullptr ? *otherwise : Value(0.0);
}

Result Absolute(const Call& c) {
  if (const int64_t* number = c.value.AsInt(); number != nullptr && *number != INT64_MIN) {
    return Value(std::abs(*number));
  }
  if (const double* number = c.value.AsDouble()) return Value(std::abs(*number));
  return c.WrongType();
}

Result Round(const Call& c) {
  if (!c.value.IsNumber()) return c.WrongType();
  const double scale = std::pow(10.0, static_cast<double>(c.IntArg(0, "precision", 0)));
  return Value(std::nearbyint(c.value.Number() * scale) / scale);
}

Result ToList(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(List list, Iterate(c.value));
  if (c.name == "reverse") {
    std::ranges::reverse(list);
    if (c.value.AsString() != nullptr) {
      std::string text;
      for (const Value& character : list) text += *character.AsString();
      return Value(std::move(text));
    }
  }
  return Value::MakeList(std::move(list));
}

Result Sort(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  const Value* attribute = c.args.Get(2, "attribute");
  const bool fold_case = !c.FlagArg(1, "case_sensitive", false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& element : list) {
    Value key = element;
    if (attribute != nullptr) {
      LEXICO_ASSIGN_OR_RETURN(key, PathOf(element, attribute->ToText(), nullptr));
    }
    if (fold_case && key.AsString() != nullptr) key = Value(Lower(*key.AsString()));
    // Anything that has an order with the first has one with all.
    if (!keyed.empty() && !keyed[0].first.Compare(key).ok())
      return c.Wrong("elements without order");
    keyed.emplace_back(std::move(key), element);
  }
  const bool reverse = c.FlagArg(0, "reverse", false);
  std::ranges::stable_sort(keyed, [reverse](const auto& a, const auto& b) {
    const int order = a.first.Compare(b.first).value_or(0);
    return reverse ? order > 0 : order < 0;
  });
  List sorted;
  for (auto& [key, element] : keyed) sorted.push_back(std::move(element));
  return Value::MakeList(std::move(sorted));
}

Result MinOrMax(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  if (list.empty()) return Value(Undefined{c.name + " of nothing"});
  Value best = list[0];
  for (const Value& element : list) {
    LEXICO_ASSIGN_OR_RETURN(const int order, element.Compare(best));
    if (c.name == "min" ? order < 0 : order > 0) best = element;
  }
  return best;
}

Result Unique(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  List kept;
  for (const Value& element : list) {
    LEXICO_RETURN_IF_ERROR(c.budget->TakeSteps(kept.size()));
    const bool seen =
        std::ranges::any_of(kept, [&](const Value& other) { return other.Equals(element); });
    if (!seen) kept.push_back(element);
  }
  return Value::MakeList(std::move(kept));
}

Result Sum(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  const Value* attribute = c.args.Get(0, "attribute");
  Value total(int64_t{0});
  for (const Value& element : list) {
    Value number = element;
    if (attribute != nullptr) {
      LEXICO_ASSIGN_OR_RETURN(number, PathOf(element, attribute->ToText(), nullptr));
    }
    LEXICO_ASSIGN_OR_RETURN(total, ApplyBinary("+", total, number, c.budget));
  }
  return total;
}

Arguments Rest(const Arguments& args, size_t from) {
  Arguments rest;
  for (size_t i = from; i < args.positional.size(); ++i)
    rest.positional.push_back(args.positional[i]);
  rest.named = args.named;
  return rest;
}

// map(attribute="x", default=...) or map("filter", args...)
Result Map(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  const Value* attribute = c.args.named.Find("attribute");
  if (attribute == nullptr && c.args.positional.empty()) return c.Wrong("needs a filter");
  List mapped;
  for (const Value& element : list) {
    LEXICO_RETURN_IF_ERROR(c.budget->TakeSteps(1));
    LEXICO_ASSIGN_OR_RETURN(
        Value value,
        attribute != nullptr
            ? PathOf(element, attribute->ToText(), c.args.named.Find("default"))
            : ApplyFilter(c.args.positional[0].ToText(), element, Rest(c.args, 1), c.budget));
    mapped.push_back(std::move(value));
  }
  return Value::MakeList(std::move(mapped));
}

// select("test", args...), reject, and by an attribute: selectattr("x", "test", args...),
// rejectattr
Result Select(const Call& c) {
  LEXICO_ASSIGN_OR_RETURN(const List list, Iterate(c.value));
  const bool by_attribute = c.name.ends_with("attr");
  const bool wanted = c.name.starts_with("select");
  const size_t n_before = by_attribute ? 1 : 0;
  if (c.args.positional.size() < n_before) return c.Wrong("needs an attribute");
  const bool has_test = c.args.positional.size() > n_before;
  List kept;
  for (const Value& element : list) {
    LEXICO_RETURN_IF_ERROR(c.budget->TakeSteps(1));
    Value subject = element;
    if (by_attribute) {
      LEXICO_ASSIGN_OR_RETURN(subject, PathOf(element, c.args.positional[0].ToText(), nullptr));
    }
    bool passes = subject.Truthy();
    if (has_test) {
      LEXICO_ASSIGN_OR_RETURN(passes, ApplyTest(c.args.positional[n_before].ToText(), subject,
                                                Rest(c.args, n_before + 1)));
    }
    if (passes == wanted) kept.push_back(element);
  }
  return Value::MakeList(std::move(kept));
}

Result Items(const Call& c) {
  if (c.value.IsUndefined()) return Value::MakeList({});
  LEXICO_ASSIGN_OR_RETURN(Value items, CallMethod(c.value, "items", {}, c.budget));
  if (c.name == "items") return items;
  List sorted = *items.AsList();
  std::ranges::stable_sort(sorted, [](const Value& a, const Value& b) {
    return Lower(a.AsList()->front().ToText()) < Lower(b.AsList()->front().ToText());
  });
  return Value::MakeList(std::move(sorted));
}

Result Indent(const Call& c) {
  const int64_t width = c.IntArg(0, "width", 4);
  if (width < 0 || width > 256) return c.Wrong("width must be from 0 to 256");
  const Value* as_text = c.args.Get(0, "width");
  const std::string margin = as_text != nullptr && as_text->AsString() != nullptr
                                 ? *as_text->AsString()
                                 : std::string(static_cast<size_t>(width), ' ');
  const bool blank = c.FlagArg(2, "blank", false);
  const bool first = c.FlagArg(1, "first", false);
  std::string out;
  const std::string text = c.value.ToText();
  const auto lines = Split(text, "\n", -1);
  for (size_t i = 0; i < lines.size(); ++i) {
    LEXICO_RETURN_IF_ERROR(c.budget->TakeBytes(margin.size() + lines[i].size()));
    if (i > 0) out += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) out += margin;
    out += lines[i];
  }
  return Value(std::move(out));
}

Result Text(const Call& c) { return Value(c.value.ToText()); }

constexpr std::pair<std::string_view, Filter> kFilters[] = {
    {"abs", &Absolute},      {"capitalize", &Case},
    {"count", &Length},      {"d", &Default},
    {"default", &Default},   {"dictsort", &Items},
    {"first", &FirstOrLast}, {"float", &ToFloat},
    {"indent", &Indent},     {"int", &ToInt},
    {"items", &Items},       {"join", &Join},
    {"last", &FirstOrLast},  {"length", &Length},
    {"list", &ToList},       {"lower", &Case},
    {"map", &Map},           {"max", &MinOrMax},
    {"min", &MinOrMax},      {"reject", &Select},
    {"rejectattr", &Select}, {"replace", &Replace},
    {"reverse", &ToList},    {"round", &Round},
    {"safe", &Text},         {"select", &Select},
    {"selectattr", &Select}, {"sort", &Sort},
    {"string", &Text},       {"sum", &Sum},
    {"title", &Case},        {"tojson", &ToJsonFilter},
    {"trim", &Trim},         {"unique", &Unique},
    {"upper", &Case},
};

}  // namespace

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value,
                                  const Arguments& args, Budget* budget) {
  const auto found = std::ranges::find(kFilters, name, &std::pair<std::string_view, Filter>::first);
  if (found == std::end(kFilters)) {
    return absl::InvalidArgumentError(fmt::format("unknown filter '{}'", name));
  }
  return found->second(Call{name, value, args, budget});
}

}  // namespace lexico::worker::jinja
