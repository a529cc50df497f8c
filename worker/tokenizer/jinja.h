// A Jinja template, parsed once and rendered often: the subset of Jinja2 that chat templates use.
//
// Statements: for (with if, else, break, continue), if, set (also of attributes and blocks), macro,
// call, filter, raw, generation. Expressions: everything but string formatting with % and
// recursive loops. Filters, tests, methods: jinja_builtins.h. Text is not escaped.
//
// Bounded: kTemplateStepsMax steps, kTemplateTextBytesMax bytes of text, kTemplateDepthMax levels;
// no template can make it loop, recurse or allocate without end.
//
// Thread safety: immutable after Parse; Render may be called from any thread.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_ast.h"
#include "worker/tokenizer/jinja_value.h"

namespace lexico::worker::jinja {

class Template {
 public:
  // InvalidArgument with the line: not Jinja, or a tag or nesting we do not take.
  static absl::StatusOr<Template> Parse(std::string_view source);

  // InvalidArgument with the line: raise_exception was called, an unknown filter, a value of the
  // wrong type. ResourceExhausted: over a limit.
  absl::StatusOr<std::string> Render(const Dict& variables) const;

 private:
  explicit Template(Body body) : body_(std::move(body)) {}

  Body body_;
};

}  // namespace lexico::worker::jinja
