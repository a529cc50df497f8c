// What `lexico` prints: JSON for scripts, text for people, errors for both.
#include <gtest/gtest.h>

#include "lexico/v1/inference.pb.h"
#include "proto/rpc/status_map.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

TEST(CliJsonTest, FieldsKeepTheirNamesAndNumbersStayNumbers) {
  v1::Session session;
  session.set_session_id("notes");
  session.set_state(v1::SESSION_STATE_READY);
  session.set_tier(v1::TIER_DISK);
  session.set_n_tokens(int64_t{1} << 53);
  session.mutable_memory()->set_fraction_of_fp16(0.25);
  session.mutable_create_time()->set_seconds(1700000000);
  session.mutable_create_time()->set_nanos(250000000);
  const auto json = ToJson(session);
  EXPECT_EQ(json["session_id"], "notes");
  EXPECT_EQ(json["state"], "ready");
  EXPECT_EQ(json["tier"], "disk");
  EXPECT_EQ(json["n_tokens"].dump(), "9007199254740992");
  EXPECT_EQ(json["memory"]["fraction_of_fp16"], 0.25);
  EXPECT_EQ(json["create_time"], "2023-11-14T22:13:20.250Z");
  EXPECT_TRUE(json["last_use_time"].is_null());
  EXPECT_EQ(json["n_durable_tokens"], 0);  // present though unset
}

TEST(CliJsonTest, RepeatedFieldsAreArraysAndUnchosenAlternativesAbsent) {
  v1::GenerateEvent event;
  event.mutable_token()->set_id(5);
  event.mutable_token()->add_top_logprobs()->set_id(7);
  const auto json = ToJson(event);
  EXPECT_EQ(json["token"]["top_logprobs"][0]["id"], 7);
  EXPECT_FALSE(json.contains("finished"));
  EXPECT_TRUE(ToJson(v1::ListModelsResponse())["models"].is_array());
}

TEST(CliTextTest, TablesAreAligned) {
  EXPECT_EQ(FormatTable({"NAME", "N"}, {{"a", "1"}, {"long-name", "1,000"}}),
            "NAME       N\n"
            "a              1\n"
            "long-name  1,000\n");
}

TEST(CliTextTest, NumbersHaveUnits) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(1000), "1,000");
  EXPECT_EQ(HumanCount(-1234567), "-1,234,567");
  EXPECT_EQ(HumanDuration(absl::Microseconds(840)), "840 us");
  EXPECT_EQ(HumanDuration(absl::Microseconds(12300)), "12.3 ms");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(4560)), "4.56 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(200)), "3 min 20 s");
}

TEST(CliTextTest, SessionShowsItsBytesAndRatio) {
  v1::Session session;
  session.set_session_id("notes");
  session.mutable_memory()->set_code_bytes(1 << 20);
  session.mutable_memory()->set_window_bytes(1 << 20);
  session.mutable_memory()->set_fp16_equivalent_bytes(16 << 20);
  session.mutable_memory()->set_fraction_of_fp16(0.125);
  const std::string text = FormatSession(session);
  EXPECT_NE(text.find("total        2.00 MiB"), std::string::npos) << text;
  EXPECT_NE(text.find("12.5 % of FP16"), std::string::npos) << text;
  EXPECT_NE(text.find("worker       -"), std::string::npos) << text;
}

TEST(CliTextTest, ADemotedSessionSaysWhatItWasAndMayBecome) {
  v1::Session session;
  session.set_profile("paper-s16");
  session.set_birth_profile("paper-s16");
  EXPECT_NE(FormatSession(session).find("profile      paper-s16\n"), std::string::npos);
  session.set_profile("paper-s8");
  session.set_min_profile("paper-s4");
  EXPECT_NE(
      FormatSession(session).find("profile      paper-s8, born paper-s16, at least paper-s4\n"),
      std::string::npos)
      << FormatSession(session);
}

TEST(CliTextTest, UsageSaysWhatWasReusedReadAndWritten) {
  v1::Usage usage;
  usage.set_n_context_tokens(20000);
  usage.set_n_prompt_tokens(100);
  usage.set_n_generated_tokens(11);
  v1::Timing timing;
  timing.set_prefill_us(50000);
  timing.set_decode_us(500000);
  timing.set_first_token_us(60000);
  EXPECT_EQ(FormatUsage(usage, timing),
            "20,000 tokens reused, 100 read in 50 ms (2,000 tokens/s), 11 written (20.0 "
            "tokens/s), first after 60 ms");
}

TEST(CliErrorTest, LineHasCodeMessageAndRemedy) {
  const Globals globals;
  EXPECT_EQ(ErrorLine(absl::NotFoundError("no session\nx"), globals),
            "lexico: NOT_FOUND: no session x");
  EXPECT_EQ(ErrorLine(rpc::WithDetail(absl::ResourceExhaustedError("full"), "queue_full",
                                      absl::Milliseconds(1500)),
                      globals),
            "lexico: RESOURCE_EXHAUSTED: full; try again in 1.5 s");
}

TEST(CliErrorTest, JsonHasTheFieldsThatAreKnown) {
  const Globals globals{.json = true};
  EXPECT_EQ(ErrorLine(absl::NotFoundError("no \"x\"\n\xff"), globals),
            "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"no \\\"x\\\"\\n\xEF\xBF\xBD\"}}");
  EXPECT_EQ(ErrorLine(rpc::WithDetail(absl::ResourceExhaustedError("full"), "queue_full",
                                      absl::Milliseconds(1500)),
                      globals),
            R"({"error":{"code":"RESOURCE_EXHAUSTED","reason":"queue_full","message":"full",)"
            R"("retry_after_ms":1500}})");
}

TEST(CliErrorTest, ExitCodeFollowsTheStatusCode) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(absl::InvalidArgumentError("")), 2);
  EXPECT_EQ(ExitCode(absl::NotFoundError("")), 1);
  EXPECT_EQ(ExitCode(absl::UnavailableError("")), 3);
}

}  // namespace
}  // namespace lexico::cli
