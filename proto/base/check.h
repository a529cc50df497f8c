// Assertions about our own code, on in every build.
//
// Three kinds of failure, three tools: the outside was wrong -> absl::Status; we were wrong ->
// these macros (print both values, then abort); the device is gone -> log, flush metrics, exit.
// User input must never be able to trigger a CHECK.
//
// LEXICO_INVARIANT is for checks too expensive to ship: it is compiled in by the dev and sanitizer
// presets (LEXICO_INVARIANTS=1) and costs nothing otherwise.
#pragma once

#include <sstream>
#include <string>

namespace lexico::base {

// Prints "CHECK failed: <message> at <file>:<line>" on stderr and aborts. Never returns.
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& message);

namespace internal {
template <typename A, typename B>
std::string CheckMessage(const char* op, const char* a_text, const char* b_text, const A& a,
                         const B& b) {
  std::ostringstream out;
  out << a_text << " (" << +a << ") " << op << " " << b_text << " (" << +b << ")";
  return out.str();
}
}  // namespace internal
}  // namespace lexico::base

#define LEXICO_CHECK(condition)                                    \
  do {                                                             \
    if (!(condition)) [[unlikely]]                                 \
      ::lexico::base::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

// Both sides are evaluated once and printed when the comparison fails. Arithmetic values only.
#define LEXICO_CHECK_OP_(a, b, op)                                                              \
  do {                                                                                          \
    const auto lexico_check_a = (a);                                                            \
    const auto lexico_check_b = (b);                                                            \
    if (!(lexico_check_a op lexico_check_b)) [[unlikely]]                                       \
      ::lexico::base::CheckFailed(                                                              \
          __FILE__, __LINE__,                                                                   \
          ::lexico::base::internal::CheckMessage(#op, #a, #b, lexico_check_a, lexico_check_b)); \
  } while (false)
#define LEXICO_CHECK_EQ(a, b) LEXICO_CHECK_OP_(a, b, ==)
#define LEXICO_CHECK_NE(a, b) LEXICO_CHECK_OP_(a, b, !=)
#define LEXICO_CHECK_LT(a, b) LEXICO_CHECK_OP_(a, b, <)
#define LEXICO_CHECK_LE(a, b) LEXICO_CHECK_OP_(a, b, <=)
#define LEXICO_CHECK_GT(a, b) LEXICO_CHECK_OP_(a, b, >)
#define LEXICO_CHECK_GE(a, b) LEXICO_CHECK_OP_(a, b, >=)

#define LEXICO_UNREACHABLE() ::lexico::base::CheckFailed(__FILE__, __LINE__, "unreachable code")

#if defined(LEXICO_INVARIANTS)
#define LEXICO_INVARIANT(condition) LEXICO_CHECK(condition)
#else
#define LEXICO_INVARIANT(condition) \
  do {                              \
  } while (false)
#endif
