// A journal may be read in two ways: exactly what was acknowledged, or an error that says where and
// why. What a crash left half written is cut off; nothing else is ever guessed.
#include "coordinator/state/journal.h"

#include <gtest/gtest.h>

#include "proto/base/bytes.h"
#include "proto/base/hash.h"
#include "tests/support/status_matchers.h"

namespace lexico::coord {
namespace {

using tests::IsOk;
using tests::StatusIs;

constexpr char kFile[] = "/data/journal";

// A snapshot of two records at revision 10, then three log records.
struct Sample {
  std::string bytes;
  std::vector<size_t> ends;  // of the header, then of each record

  Sample() {
    Add(EncodeJournalHeader(10, 2));
    Add(EncodeRecord(RecordKind::kPut, 4, "a", "one"));
    Add(EncodeRecord(RecordKind::kPut, 10, "b", "two"));
    Add(EncodeRecord(RecordKind::kPut, 11, "c", "three"));
    Add(EncodeRecord(RecordKind::kDelete, 12, "a", ""));
    Add(EncodeRecord(RecordKind::kPut, 13, "b", "four"));
  }
  void Add(const std::string& part) {
    bytes += part;
    ends.push_back(bytes.size());
  }
};

TEST(JournalTest, ReadsSnapshotAndLogInOrder) {
  const Sample sample;
  const auto contents = ParseJournal(sample.bytes, kFile);
  ASSERT_THAT(contents, IsOk());
  EXPECT_EQ(contents->revision, 13u);
  EXPECT_EQ(contents->entries.size(), 2u);
  EXPECT_EQ(contents->entries.at("b").value, "four");
  EXPECT_EQ(contents->entries.at("b").revision, 13u);
  EXPECT_EQ(contents->entries.at("c").revision, 11u);
  EXPECT_EQ(contents->valid_bytes, sample.bytes.size());
  EXPECT_EQ(contents->torn_bytes, 0u);
  EXPECT_EQ(contents->snapshot_bytes, sample.ends[2]);
}

TEST(JournalTest, EveryTruncationOfTheLogIsCutToWholeRecords) {
  const Sample sample;
  for (size_t size = sample.ends[2]; size < sample.bytes.size(); ++size) {
    const auto contents = ParseJournal(sample.bytes.substr(0, size), kFile);
    ASSERT_THAT(contents, IsOk()) << size;
    size_t whole = 0;
    for (const size_t end : sample.ends) {
      if (end <= size) whole = end;
    }
    EXPECT_EQ(contents->valid_bytes, whole) << size;
    EXPECT_EQ(contents->torn_bytes, size - whole) << size;
  }
}

TEST(JournalTest, EveryTruncationOfHeaderOrSnapshotIsDataLoss) {
  const Sample sample;
  for (size_t size = 0; size < sample.ends[2]; ++size) {
    EXPECT_THAT(ParseJournal(sample.bytes.substr(0, size), kFile),
                StatusIs(absl::StatusCode::kDataLoss, kFile))
        << size;
  }
}

TEST(JournalTest, EveryByteFlipIsDetected) {
  const Sample sample;
  for (size_t offset = 0; offset < sample.bytes.size(); ++offset) {
    for (const int mask : {0x01, 0x80, 0xff}) {
      std::string bad = sample.bytes;
      bad[offset] = static_cast<char>(bad[offset] ^ mask);
      const auto contents = ParseJournal(bad, kFile);
      EXPECT_FALSE(contents.ok()) << "offset " << offset << " mask " << mask;
      EXPECT_TRUE(absl::IsDataLoss(contents.status())) << contents.status();
    }
  }
}

TEST(JournalTest, DamageIsReportedWithPlaceBothSumsAndRemedy) {
  const Sample sample;
  std::string bad = sample.bytes;
  bad[sample.ends[2] + kRecordHeadBytes + 3] ^= 1;
  const std::string message(ParseJournal(bad, kFile).status().message());
  EXPECT_NE(message.find(kFile), std::string::npos) << message;
  EXPECT_NE(message.find("at byte " + std::to_string(sample.ends[2])), std::string::npos)
      << message;
  EXPECT_NE(message.find("crc32c"), std::string::npos) << message;
  EXPECT_NE(message.find("it says"), std::string::npos) << message;
  EXPECT_NE(message.find("backup"), std::string::npos) << message;
}

TEST(JournalTest, HoleOfZerosAtTheEndIsATornWrite) {
  const Sample sample;
  for (const size_t n_kept : {size_t{0}, size_t{5}, kRecordHeadBytes, kRecordHeadBytes + 4}) {
    std::string torn = sample.bytes;
    for (size_t i = sample.ends[4] + n_kept; i < torn.size(); ++i) torn[i] = 0;
    const auto contents = ParseJournal(torn, kFile);
    ASSERT_THAT(contents, IsOk()) << n_kept;
    EXPECT_EQ(contents->valid_bytes, sample.ends[4]);
    EXPECT_EQ(contents->revision, 12u);
  }
}

TEST(JournalTest, MissingRepeatedAndSwappedRecordsAreDetected) {
  const Sample sample;
  const auto part = [&](size_t i) {
    return sample.bytes.substr(sample.ends[i - 1], sample.ends[i] - sample.ends[i - 1]);
  };
  const std::string head = sample.bytes.substr(0, sample.ends[2]);
  for (const std::string& bad :
       {head + part(3) + part(5), head + part(3) + part(3) + part(4), head + part(4) + part(3)}) {
    EXPECT_THAT(ParseJournal(bad, kFile), StatusIs(absl::StatusCode::kDataLoss, "revision"));
  }
}

TEST(JournalTest, NewerVersionIsFailedPrecondition) {
  std::string header = EncodeJournalHeader(0, 0);
  ASSERT_THAT(ParseJournal(header, kFile), IsOk());
  header[4] = kJournalVersion + 1;
  header.resize(kJournalHeaderBytes - sizeof(uint32_t));
  base::ByteWriter out;
  out.WriteBytes(base::AsBytes(header));
  out.Write<uint32_t>(base::Crc32c(base::AsBytes(header)));
  EXPECT_THAT(ParseJournal(out.buffer(), kFile),
              StatusIs(absl::StatusCode::kFailedPrecondition, "version 2"));
}

}  // namespace
}  // namespace lexico::coord
