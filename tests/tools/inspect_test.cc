// lexico-inspect: what is sound is told, what is damaged is told with its place.
#include "tools/inspect/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "cache_store/tiers/segment_file.h"
#include "coordinator/state/journal.h"
#include "tests/cache_store/page_factory.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_safetensors_writer.h"

namespace lexico::inspect {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class InspectTest : public testing::Test {
 protected:
  // A segment of `n` pages; its bytes.
  std::string Segment(int n, const store::PageShape& shape = store::CodeShape()) {
    const auto file = store::SegmentFile::Create(dir_.path(), ++id_, nullptr);
    EXPECT_THAT(file, tests::IsOk());
    std::vector<store::NamedPage> pages;
    for (int i = 0; i < n; ++i) pages.push_back(store::MakeNamedPage(i, shape));
    std::vector<store::Location> locations;
    EXPECT_THAT((*file)->Append(pages, &locations), tests::IsOk());
    path_ = (*file)->path();
    return tests::ReadFile(path_);
  }
  Report File(const std::string& name, const std::string& bytes) {
    const auto report = InspectFile(dir_.Write(name, bytes), {});
    EXPECT_THAT(report, tests::IsOk());
    return report.ok() ? *report : Report{};
  }

  const tests::TempDir dir_;
  uint64_t id_ = 0;
  std::string path_;
};

// ---- segments and pages

TEST_F(InspectTest, ASoundSegmentIsTold) {
  Segment(3);
  const auto report = InspectFile(path_, {.list_pages = true});
  ASSERT_THAT(report, tests::IsOk());
  EXPECT_EQ(report->kind, "segment");
  EXPECT_TRUE(report->is_sound());
  EXPECT_EQ(report->facts["segment"], 1);
  EXPECT_EQ(report->facts["pages"], 3);
  EXPECT_EQ(report->facts["layers"], 2);
  EXPECT_THAT(report->facts["shapes"][0].get<std::string>(),
              HasSubstr("3 x codes of 4 tokens, 2 KV heads of"));
  EXPECT_EQ(report->facts["models"][0], store::FingerprintOf("model").ToHex());
  EXPECT_EQ(report->facts["relative_error_v"], 0.5);
  ASSERT_THAT(report->details, SizeIs(3));
  EXPECT_THAT(report->details[2], HasSubstr(store::KeyOf(2).ToHex()));
}

TEST_F(InspectTest, FormsOfTheFamilyAreTold) {
  const Report report = InspectSegment("s", Bytes(Segment(1, store::FamilyShape())), {});
  EXPECT_TRUE(report.is_sound());
  const std::string shape = report.facts["shapes"][0];
  EXPECT_THAT(shape, HasSubstr("K 3 atoms, 4 bits, residual of 2 bits, unbiased"));
  EXPECT_THAT(shape, HasSubstr("V 0 atoms, residual of 3 bits"));
}

TEST_F(InspectTest, DamageInTheMiddleIsOnePlace) {
  std::string bytes = Segment(3);
  const size_t record = (bytes.size() - store::kSegmentHeaderBytes) / 3;
  const size_t second = store::kSegmentHeaderBytes + record;
  bytes[second + 200] ^= 1;
  const Report report = InspectSegment("s", Bytes(bytes), {});
  ASSERT_THAT(report.damage, SizeIs(1));
  EXPECT_EQ(report.damage[0].offset, second);
  EXPECT_EQ(report.damage[0].bytes, record);
  EXPECT_THAT(report.damage[0].what, HasSubstr("crc32c"));
  EXPECT_EQ(report.facts["pages"], 2);
  EXPECT_THAT(ReportText(report), HasSubstr("DAMAGED in 1 places"));
  EXPECT_EQ(ReportJson(report)["damage"][0]["offset"], second);
}

TEST_F(InspectTest, ACutEndIsDamageAndZerosBehindTheEndAreNone) {
  const std::string bytes = Segment(2);
  const Report cut = InspectSegment("s", Bytes(bytes.substr(0, bytes.size() - 100)), {});
  ASSERT_THAT(cut.damage, SizeIs(1));
  EXPECT_THAT(cut.damage[0].what, HasSubstr("are left"));
  EXPECT_EQ(cut.damage[0].offset + cut.damage[0].bytes, bytes.size() - 100);
  const Report longer = InspectSegment("s", Bytes(bytes + std::string(640, '\0')), {});
  EXPECT_TRUE(longer.is_sound());
  EXPECT_EQ(longer.facts["pages"], 2);
}

TEST_F(InspectTest, ADamagedHeaderOfASegmentLeavesItsPagesReadable) {
  std::string bytes = Segment(2);
  bytes[9] ^= 1;
  const Report report = InspectSegment("s", Bytes(bytes), {});
  ASSERT_THAT(report.damage, SizeIs(1));
  EXPECT_EQ(report.damage[0].offset, 0);
  EXPECT_THAT(report.damage[0].what, HasSubstr("crc32c"));
  EXPECT_EQ(report.facts["pages"], 2);
  bytes = Segment(1);
  bytes[40] = 1;  // reserved
  EXPECT_THAT(InspectSegment("s", Bytes(bytes), {}).damage[0].what, HasSubstr("no version writes"));
  EXPECT_THAT(InspectSegment("s", Bytes(bytes.substr(0, 10)), {}).damage[0].what,
              HasSubstr("10 bytes"));
}

TEST_F(InspectTest, EveryFlippedBitOfASegmentIsFound) {
  const std::string bytes = Segment(1);
  const size_t page_end = store::kSegmentHeaderBytes + store::kPageHeaderBytes + 120;
  for (size_t i = 0; i < page_end; ++i) {
    std::string broken = bytes;
    broken[i] ^= static_cast<char>(1 << (i % 8));
    EXPECT_FALSE(InspectSegment("s", Bytes(broken), {}).is_sound()) << "byte " << i;
  }
}

TEST_F(InspectTest, APageAlone) {
  const std::string bytes = store::MakePage(store::KeyOf(7)).bytes();
  const Report report = File("page", bytes);
  EXPECT_EQ(report.kind, "page");
  EXPECT_TRUE(report.is_sound());
  EXPECT_EQ(report.facts["key"], store::KeyOf(7).ToHex());
  EXPECT_EQ(report.facts["first_token"], 8);
  EXPECT_FALSE(File("page", bytes + "x").is_sound());
  EXPECT_FALSE(File("page", bytes.substr(0, 50)).is_sound());
}

// ---- journals

TEST_F(InspectTest, AJournalAndItsDamage) {
  std::string bytes = coord::EncodeJournalHeader(5, 0) +
                      coord::EncodeRecord(coord::RecordKind::kPut, 6, "session/a", "value") +
                      coord::EncodeRecord(coord::RecordKind::kPut, 7, "worker/b", "value");
  const size_t whole = bytes.size();
  const Report report = File("journal", bytes);
  EXPECT_EQ(report.kind, "journal");
  EXPECT_TRUE(report.is_sound());
  EXPECT_EQ(report.facts["revision"], 7);
  EXPECT_EQ(report.facts["entries"], 2);
  EXPECT_EQ(report.facts["entries of session"], 1);
  bytes += "torn";
  EXPECT_EQ(File("journal", bytes).facts["torn_bytes"], 4);
  bytes[whole - 8] ^= 1;
  const Report damaged = File("journal", bytes);
  ASSERT_THAT(damaged.damage, SizeIs(1));
  EXPECT_THAT(damaged.damage[0].what, HasSubstr("is damaged at byte"));
}

// ---- dictionaries

std::string Dictionary(float last) {
  std::vector<float> rows(16 * 16, 0);
  for (int i = 0; i < 16; ++i) rows[i * 17] = 1;
  std::vector<float> other = rows;
  other.back() = last;
  return tests::SafetensorsWriter()
      .Metadata("train_seed", "1")
      .AddF32("layers.0.k", {16, 16}, rows)
      .AddF32("layers.0.v", {16, 16}, other)
      .Bytes();
}

TEST_F(InspectTest, ADictionaryAndRowsThatAreNoAtoms) {
  const Report report = File("d.safetensors", Dictionary(1));
  EXPECT_EQ(report.kind, "dictionary");
  EXPECT_TRUE(report.is_sound());
  EXPECT_EQ(report.facts["tensors"], 2);
  EXPECT_EQ(report.facts["first"], "layers.0.k F32 [16, 16]");
  EXPECT_EQ(report.facts["train_seed"], "1");
  EXPECT_THAT(report.facts["fingerprint"].get<std::string>(), SizeIs(32));
  const Report damaged = File("d.safetensors", Dictionary(0.5f));
  ASSERT_THAT(damaged.damage, SizeIs(1));
  EXPECT_THAT(damaged.damage[0].what, HasSubstr("layers.0.v"));
  EXPECT_EQ(damaged.damage[0].offset + damaged.damage[0].bytes, damaged.bytes);
  EXPECT_FALSE(File("d.safetensors", Dictionary(std::nanf(""))).is_sound());
  EXPECT_FALSE(File("d.safetensors", Dictionary(1).substr(0, 300)).is_sound());
  const Report weights =
      File("w.safetensors", tests::SafetensorsWriter().AddF32("norm.weight", {2}, {1, 2}).Bytes());
  EXPECT_EQ(weights.kind, "safetensors");
  EXPECT_TRUE(weights.is_sound());
}

// ---- what is none of these

TEST_F(InspectTest, OtherFilesAreUnknown) {
  const Report text = File("text", "hello, \nworld");
  EXPECT_EQ(text.kind, "unknown");
  EXPECT_FALSE(text.is_sound());
  EXPECT_THAT(text.damage[0].what, HasSubstr("'hello, \\x0a'"));
  EXPECT_THAT(File("empty", "").damage[0].what, HasSubstr("empty"));
  EXPECT_THAT(InspectFile(dir_.File("absent"), {}),
              tests::StatusIs(absl::StatusCode::kNotFound, dir_.File("absent")));
}

TEST_F(InspectTest, AFolderIsWhatItsFilesAre) {
  std::filesystem::create_directories(dir_.File("data/segments"));
  dir_.Write("data/segments/0000000002.lxsg", "");
  dir_.Write("data/segments/0000000001.lxsg", "");
  dir_.Write("data/journal", "");
  dir_.Write("data/other", "");
  const auto files = FilesToInspect(dir_.File("data"));
  ASSERT_THAT(files, tests::IsOk());
  EXPECT_THAT(*files, ElementsAre(EndsWith("journal"), EndsWith("0000000001.lxsg"),
                                  EndsWith("0000000002.lxsg")));
  EXPECT_THAT(FilesToInspect(dir_.File("absent")),
              tests::StatusIs(absl::StatusCode::kNotFound, "no such file or folder"));
  std::filesystem::create_directories(dir_.File("nothing"));
  EXPECT_THAT(FilesToInspect(dir_.File("nothing")),
              tests::StatusIs(absl::StatusCode::kNotFound, "name a file"));
}

}  // namespace
}  // namespace lexico::inspect
