// Sessions that move: what comes back continues as if nothing had happened.
#include <algorithm>
#include <string>

#include "tests/worker/engine_fixture.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

class EngineRestoreTest : public EngineTest, public testing::WithParamInterface<const char*> {};

TEST_P(EngineRestoreTest, TheNext64TokensAreTheSameBits) {
  // Windows of every kind: short, full, and in the middle of coding ahead.
  for (const int n_prompt : {40, 128, 140, 159, 300, 317}) {
    for (const int n_decoded : {0, 7}) {
      Restart({});
      auto other = MakeEngine({});
      Open("s", GetParam());
      ASSERT_THAT(Append("s", RandomIds(n_prompt)).result, IsOk());
      if (n_decoded > 0) Generate(Request("s", RandomIds(3, 8), n_decoded));
      Move(*engine_, "s", *other);
      const Outcome here = Generate(Request("s", RandomIds(5, 9), 64));
      const Outcome there = Generate(Request("s", RandomIds(5, 9), 64), other.get());
      ASSERT_THAT(here.result, IsOk());
      ASSERT_THAT(there.result, IsOk());
      ExpectSameTokens(here, there);
      const auto a = engine_->Export("s", true);
      const auto b = other->Export("s", true);
      EXPECT_EQ(a->manifest, b->manifest) << n_prompt << " " << n_decoded;
      EXPECT_TRUE(Payloads(a->pages) == Payloads(b->pages)) << n_prompt << " " << n_decoded;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Profiles, EngineRestoreTest,
                         testing::Values("dense", "paper-s4", "kv4r1", "k2r2u-v0r3u"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_F(EngineTest, APageOfAnotherMemberOfTheFamilyIsRefused) {
  Open("s", "kv4r1");
  ASSERT_THAT(Append("s", RandomIds(300)).result, IsOk());
  auto snapshot = engine_->Export("s", true);
  ASSERT_THAT(snapshot, IsOk());
  snapshot->manifest.session_id = "s";
  snapshot->manifest.profile = "kv4r1u";  // of the same size
  ASSERT_THAT(engine_->Drop("s"), IsOk());
  EXPECT_THAT(engine_->BeginImport(snapshot->manifest),
              StatusIs(StatusCode::kDataLoss, "its tokens make it"));
}

TEST_F(EngineTest, LostTokensAreComputedAgainByTheNextCall) {
  Open("s");
  ASSERT_THAT(Append("s", RandomIds(300)).result, IsOk());
  auto snapshot = engine_->Export("s", false);
  ASSERT_THAT(snapshot, IsOk());
  snapshot->manifest.session_id = "s";
  auto other = MakeEngine({});
  auto import = other->BeginImport(snapshot->manifest);
  ASSERT_THAT(import, IsOk());
  const auto info = other->FinishImport("s", *std::move(import));
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->n_tokens, 300);
  EXPECT_EQ(info->n_pending_tokens, 300);
  // All of it is one exact prefill again: the same as never having been lost.
  std::vector<int32_t> whole = RandomIds(300);
  const std::vector<int32_t> question = RandomIds(20, 3);
  whole.insert(whole.end(), question.begin(), question.end());
  ASSERT_THAT(other->OpenSession({.session_id = "t", .profile = "paper-s4"}), IsOk());
  const Outcome fresh = Generate(Request("t", whole, 20), other.get());
  const Outcome rebuilt = Generate(Request("s", question, 20), other.get());
  ASSERT_THAT(rebuilt.result, IsOk());
  EXPECT_EQ(rebuilt.result->usage.n_prompt_tokens, 320);
  ExpectSameTokens(fresh, rebuilt);
}

TEST_F(EngineTest, AnImportOfAnExistingSessionIsRefused) {
  Open("s");
  Append("s", RandomIds(10));
  auto snapshot = engine_->Export("s", true);
  snapshot->manifest.session_id = "s";
  auto import = engine_->BeginImport(snapshot->manifest);
  ASSERT_THAT(import, IsOk());
  EXPECT_THAT(engine_->FinishImport("s", *std::move(import)),
              StatusIs(StatusCode::kAlreadyExists, "s"));
  ASSERT_THAT(engine_->Drop("s"), IsOk());
  EXPECT_EQ(engine_->load().pool.used_bytes, 0u);
}

TEST_F(EngineTest, AManifestWithForeignTokensIsDataLoss) {
  Open("s");
  Append("s", RandomIds(10));
  auto snapshot = engine_->Export("s", true);
  snapshot->manifest.session_id = "s";
  snapshot->manifest.tokens[4] = 61;
  EXPECT_THAT(engine_->BeginImport(snapshot->manifest),
              StatusIs(StatusCode::kDataLoss, "token 61, the vocabulary ends at 60"));
}

}  // namespace
}  // namespace lexico::worker
