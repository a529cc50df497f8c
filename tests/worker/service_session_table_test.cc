#include <gtest/gtest.h>

#include "proto/rpc/status_map.h"
#include "tests/support/status_matchers.h"
#include "worker/service/session_table.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

SessionRecord Record(const std::string& id, uint64_t epoch) {
  SessionRecord record;
  record.session_id = id;
  record.epoch = epoch;
  return record;
}

TEST(SessionTableTest, OneCallAtATimeUsesASession) {
  SessionTable table;
  {
    const auto first = table.Add(Record("s", 3));
    ASSERT_THAT(first, IsOk());
    const auto second = table.Acquire("s", 3);
    EXPECT_THAT(second, StatusIs(StatusCode::kFailedPrecondition, "call running"));
    EXPECT_EQ(rpc::ReasonOf(second.status()), "session_busy");
    EXPECT_TRUE(table.IsInUse("s"));
    EXPECT_THAT(table.Get("s", 3), IsOk());  // looking is possible
  }
  EXPECT_FALSE(table.IsInUse("s"));
  EXPECT_THAT(table.Acquire("s", 3), IsOk());
}

TEST(SessionTableTest, OtherEpochsAreStaleBothWays) {
  SessionTable table;
  ASSERT_THAT(table.Add(Record("s", 3)), IsOk());
  for (const uint64_t epoch : {2, 4}) {
    const auto use = table.Acquire("s", epoch);
    EXPECT_THAT(use, StatusIs(StatusCode::kAborted, "at epoch 3"));
    EXPECT_EQ(rpc::ReasonOf(use.status()), "epoch_stale");
    EXPECT_THAT(table.Get("s", epoch), StatusIs(StatusCode::kAborted, "at epoch 3"));
  }
  EXPECT_THAT(table.Acquire("t", 3), StatusIs(StatusCode::kNotFound, "t"));
  EXPECT_THAT(table.Add(Record("s", 4)), StatusIs(StatusCode::kAlreadyExists, "epoch 3"));
}

TEST(SessionTableTest, ChangesCountAfterSave) {
  SessionTable table;
  {
    auto use = table.Add(Record("s", 1));
    ASSERT_THAT(use, IsOk());
    use->record.n_durable_tokens = 5;
    EXPECT_EQ(table.Get("s", 1)->n_durable_tokens, 0);
    EXPECT_TRUE(use->Save());
  }
  EXPECT_EQ(table.Get("s", 1)->n_durable_tokens, 5);
}

TEST(SessionTableTest, DroppedUseCannotSaveOverItsSuccessor) {
  SessionTable table;
  auto old_use = table.Add(Record("s", 1));
  ASSERT_THAT(old_use, IsOk());
  EXPECT_FALSE(table.Drop("s", 0));  // held at a larger epoch
  EXPECT_TRUE(table.Drop("s", 1));
  auto new_use = table.Add(Record("s", 2));
  ASSERT_THAT(new_use, IsOk());
  EXPECT_FALSE(old_use->Save());
  { const auto gone = std::move(*old_use); }
  EXPECT_TRUE(table.IsInUse("s"));  // the old use's end is not the new one's
}

TEST(SessionTableTest, DurableTokensGrowForTheirEpochOnly) {
  SessionTable table;
  auto use = table.Add(Record("s", 2));
  ASSERT_THAT(use, IsOk());
  table.SetDurable("s", 1, 10);
  EXPECT_EQ(table.Get("s", 2)->n_durable_tokens, 0);
  table.SetDurable("s", 2, 10);
  table.SetDurable("s", 2, 7);
  EXPECT_EQ(table.Get("s", 2)->n_durable_tokens, 10);
  EXPECT_TRUE(use->Save());  // of an older record: the store's progress is kept
  EXPECT_EQ(table.Get("s", 2)->n_durable_tokens, 10);
}

}  // namespace
}  // namespace lexico::worker
