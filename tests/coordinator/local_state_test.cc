#include "coordinator/state/local_state.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <random>
#include <thread>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lexico::coord {
namespace {

using tests::IsOk;
using tests::StatusIs;

class LocalStateTest : public testing::Test {
 protected:
  void Open() {
    state_.reset();
    auto opened = LocalState::Open(options_);
    ASSERT_THAT(opened, IsOk());
    state_ = *std::move(opened);
  }
  uint64_t Put(const std::string& key, const std::string& value, uint64_t expected,
               Durability durability = Durability::kDurable) {
    const auto revision = state_->Put(key, value, expected, durability);
    EXPECT_THAT(revision, IsOk());
    return revision.value_or(0);
  }
  std::map<std::string, std::string> All() {
    std::map<std::string, std::string> all;
    const auto entries = state_->List("");
    EXPECT_THAT(entries, IsOk());
    for (const StateEntry& entry : *entries) all[entry.key] = entry.value;
    return all;
  }
  std::string Journal() const { return dir_.File("journal"); }

  tests::TempDir dir_;
  base::FaultInjector faults_;
  LocalStateOptions options_{.folder = dir_.path(), .faults = &faults_};
  std::unique_ptr<LocalState> state_;
};

TEST_F(LocalStateTest, RecordsAndRevisionsSurviveARestart) {
  Open();
  const uint64_t a = Put("session/a", "1", 0);
  Put("session/b", "2", 0, Durability::kLazy);
  Put("session/a", "3", a);
  Put("worker/w", "", 0);
  const uint64_t revision = state_->Revision();
  Open();
  EXPECT_EQ(All(), (std::map<std::string, std::string>{
                       {"session/a", "3"}, {"session/b", "2"}, {"worker/w", ""}}));
  EXPECT_EQ(state_->Revision(), revision);
  EXPECT_EQ(state_->List("session/")->size(), 2u);
  EXPECT_EQ(state_->torn_bytes(), 0u);
}

TEST_F(LocalStateTest, WriteOverAnotherRevisionIsAborted) {
  Open();
  const uint64_t first = Put("k", "1", 0);
  EXPECT_THAT(state_->Put("k", "2", 0, Durability::kDurable),
              StatusIs(absl::StatusCode::kAborted, "revision 1"));
  Put("k", "2", first);
  EXPECT_THAT(state_->Delete("k", first), StatusIs(absl::StatusCode::kAborted, "k"));
  EXPECT_THAT(state_->Delete("none", 0), StatusIs(absl::StatusCode::kAborted, "none"));
  EXPECT_EQ(All().at("k"), "2");
}

TEST_F(LocalStateTest, DeletedStaysDeleted) {
  Open();
  EXPECT_THAT(state_->Delete("k", Put("k", "1", 0)), IsOk());
  Open();
  EXPECT_TRUE(All().empty());
  EXPECT_EQ(state_->Revision(), 2u);
}

TEST_F(LocalStateTest, InMemoryWithoutFolder) {
  options_.folder.clear();
  Open();
  EXPECT_EQ(Put("k", "1", 0), 1u);
  EXPECT_EQ(state_->SizeBytes(), 0u);
  Open();
  EXPECT_TRUE(All().empty());
}

TEST_F(LocalStateTest, TornTailIsCutOffAndWritingGoesOn) {
  Open();
  Put("a", "1", 0);
  const auto whole = std::filesystem::file_size(Journal());
  Put("b", "2", 0);
  state_.reset();
  std::filesystem::resize_file(Journal(), std::filesystem::file_size(Journal()) - 3);
  Open();
  EXPECT_GT(state_->torn_bytes(), 0u);
  EXPECT_EQ(std::filesystem::file_size(Journal()), whole);
  Put("c", "3", 0);
  Open();
  EXPECT_EQ(All(), (std::map<std::string, std::string>{{"a", "1"}, {"c", "3"}}));
}

TEST_F(LocalStateTest, DamagedJournalIsRefusedAndLeftAsItIs) {
  Open();
  Put("a", "1", 0);
  Put("b", "2", 0);
  state_.reset();
  std::string bytes = tests::ReadFile(Journal());
  bytes[kJournalHeaderBytes + kRecordHeadBytes + 2] ^= 1;
  dir_.Write("journal", bytes);
  EXPECT_THAT(LocalState::Open(options_), StatusIs(absl::StatusCode::kDataLoss, Journal()));
  EXPECT_EQ(tests::ReadFile(Journal()), bytes);
}

TEST_F(LocalStateTest, FolderInUseIsRefusedWithTheProcess) {
  Open();
  EXPECT_THAT(LocalState::Open(options_), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                   "process " + std::to_string(getpid())));
  state_.reset();
  EXPECT_THAT(LocalState::Open(options_), IsOk());
}

TEST_F(LocalStateTest, FolderThatCannotBeMadeIsAnError) {
  options_.folder = dir_.Write("file", "x") + "/sub";
  EXPECT_FALSE(LocalState::Open(options_).ok());
}

TEST_F(LocalStateTest, FailedWriteLeavesNothingAndTheNextOneWorks) {
  Open();
  Put("a", "1", 0);
  faults_.Set("journal.write", absl::ResourceExhaustedError("no space"), 1);
  EXPECT_THAT(state_->Put("b", "2", 0, Durability::kDurable),
              StatusIs(absl::StatusCode::kResourceExhausted, "no space"));
  EXPECT_EQ(All().size(), 1u);
  Put("b", "3", 0);
  Open();
  EXPECT_EQ(All().at("b"), "3");
}

// A real short write: the file may not grow beyond its present size plus a few bytes.
TEST_F(LocalStateTest, ShortWriteIsCutOff) {
  Open();
  Put("a", "1", 0);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{std::filesystem::file_size(Journal()) + 7, old.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto failed = state_->Put("b", "2", 0, Durability::kDurable);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_FALSE(failed.ok());
  Put("c", "3", 0);
  Open();
  EXPECT_EQ(All(), (std::map<std::string, std::string>{{"a", "1"}, {"c", "3"}}));
}

TEST_F(LocalStateTest, FailedSyncIsRememberedUntilRestart) {
  Open();
  faults_.Set("journal.sync", absl::UnavailableError("disk gone"), 1);
  EXPECT_THAT(state_->Put("a", "1", 0, Durability::kDurable),
              StatusIs(absl::StatusCode::kUnavailable, "disk gone"));
  EXPECT_THAT(state_->Put("b", "1", 0, Durability::kLazy),
              StatusIs(absl::StatusCode::kUnavailable, "disk gone"));
  Open();
  Put("b", "1", 0);
}

TEST_F(LocalStateTest, CompactionKeepsEveryRecordAndRevision) {
  options_.compact_slack_bytes = 2000;
  Open();
  std::map<std::string, StateEntry> model;
  std::mt19937_64 random(7);
  uint64_t bytes_max = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string key = "k" + std::to_string(random() % 9);
    const uint64_t expected = model.contains(key) ? model[key].revision : 0;
    if (expected != 0 && random() % 4 == 0) {
      ASSERT_THAT(state_->Delete(key, expected), IsOk());
      model.erase(key);
    } else {
      const std::string value(random() % 60, 'v');
      model[key] = {key, value, Put(key, value, expected, Durability::kLazy)};
    }
    bytes_max = std::max(bytes_max, state_->SizeBytes());
    EXPECT_EQ(state_->SizeBytes(), std::filesystem::file_size(Journal()));
  }
  EXPECT_LT(bytes_max, 6000u);  // 1000 records took far more
  const uint64_t revision = state_->Revision();
  Open();
  EXPECT_EQ(state_->Revision(), revision);
  ASSERT_EQ(All().size(), model.size());
  const auto entries = state_->List("");
  for (const StateEntry& entry : *entries) {
    EXPECT_EQ(entry.value, model[entry.key].value);
    EXPECT_EQ(entry.revision, model[entry.key].revision);
  }
}

TEST_F(LocalStateTest, WritersInParallelAllBecomeDurable) {
  options_.compact_slack_bytes = 1000;
  Open();
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([this, w] {
      uint64_t revision = 0;
      for (int i = 0; i < 50; ++i) {
        const auto put = state_->Put("k" + std::to_string(w), std::to_string(i), revision,
                                     i % 3 == 0 ? Durability::kLazy : Durability::kDurable);
        ASSERT_THAT(put, IsOk());
        revision = *put;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(state_->Revision(), 200u);
  Open();
  EXPECT_EQ(state_->Revision(), 200u);
  for (const auto& [key, value] : All()) EXPECT_EQ(value, "49") << key;
}

}  // namespace
}  // namespace lexico::coord
