// check, bytes, hash, options, status, fault, clock: what everything else stands on.
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/cord.h"
#include "proto/base/bytes.h"
#include "proto/base/check.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/hash.h"
#include "proto/base/options.h"
#include "proto/base/read_file.h"
#include "proto/base/split_mix.h"
#include "proto/base/status.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lexico::base {
namespace {

using tests::IsOk;
using tests::StatusIs;

TEST(CheckDeathTest, PrintsBothValuesAndThePlace) {
  const int n_pages = 3;
  EXPECT_DEATH(LEXICO_CHECK_EQ(n_pages, 4), "n_pages \\(3\\) == 4 \\(4\\) at .*base_test.cc");
  EXPECT_DEATH(LEXICO_CHECK(n_pages > 5), "n_pages > 5");
  EXPECT_DEATH(LEXICO_UNREACHABLE(), "unreachable");
}

TEST(CheckTest, EvaluatesEachSideOnce) {
  int n = 0;
  LEXICO_CHECK_LT(n++, 1);
  EXPECT_EQ(n, 1);
}

TEST(ReadFileTest, GivesTheBytesOrNamesThePath) {
  const tests::TempDir dir;
  const std::string path = dir.Write("file", std::string_view("a\0b\n", 4));
  const auto text = ReadTextFile(path, 4);
  ASSERT_THAT(text, IsOk());
  EXPECT_EQ(*text, std::string_view("a\0b\n", 4));
  EXPECT_THAT(ReadTextFile(path, 3), StatusIs(absl::StatusCode::kInvalidArgument,
                                              path + ": 4 bytes, more than the 3 allowed"));
  EXPECT_THAT(ReadTextFile(dir.File("absent"), 4),
              StatusIs(absl::StatusCode::kNotFound, dir.File("absent")));
  EXPECT_THAT(ReadTextFile(dir.path(), 4), StatusIs(absl::StatusCode::kNotFound, dir.path()));
}

TEST(BytesTest, WhatIsWrittenIsRead) {
  ByteWriter out;
  out.Write<uint16_t>(0x1234);
  out.WriteString("text");
  out.Write<double>(0.5);
  EXPECT_EQ(out.buffer().substr(0, 2), std::string("\x34\x12"));  // little-endian
  const std::string bytes = out.Take();
  ByteReader in(AsBytes(bytes));
  EXPECT_EQ(in.Read<uint16_t>(), 0x1234);
  EXPECT_EQ(in.ReadString(), "text");
  EXPECT_EQ(in.Read<double>(), 0.5);
  EXPECT_TRUE(in.ok());
  EXPECT_EQ(in.remaining(), 0u);
}

TEST(BytesTest, ReadingPastTheEndFailsForGood) {
  const std::string bytes("\x01\x02\x03", 3);
  ByteReader in(AsBytes(bytes));
  EXPECT_EQ(in.Read<uint32_t>(), 0u);
  EXPECT_FALSE(in.ok());
  EXPECT_EQ(in.Read<uint8_t>(), 0u);  // would fit, but the reader is spent
  EXPECT_EQ(in.offset(), 0u);
}

TEST(BytesTest, StringLongerThanTheRestIsNotRead) {
  ByteWriter out;
  out.Write<uint32_t>(0xffffffff);
  out.Write<uint8_t>(1);
  ByteReader in(AsBytes(out.buffer()));
  EXPECT_EQ(in.ReadString(), "");
  EXPECT_FALSE(in.ok());
}

// RFC 3720 B.4 and the check value of the CRC catalogue.
TEST(HashTest, Crc32cOfKnownVectors) {
  EXPECT_EQ(Crc32c(AsBytes("123456789")), 0xE3069283u);
  EXPECT_EQ(Crc32c(AsBytes(std::string(32, '\0'))), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(AsBytes(std::string(32, '\xff'))), 0x62A8AB43u);
  EXPECT_EQ(Crc32c({}), 0u);
}

TEST(HashTest, Crc32cContinues) {
  const std::string text = "the quick brown fox";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const uint32_t first = Crc32c(AsBytes(text.substr(0, cut)));
    EXPECT_EQ(Crc32c(AsBytes(text.substr(cut)), first), Crc32c(AsBytes(text))) << cut;
  }
}

// SHA-256 over an 8-byte length and the text, as by
// python -c "import hashlib;
// print(hashlib.sha256((3).to_bytes(8,'little')+b'abc').hexdigest()[:32])"
TEST(HashTest, FingerprintIsSha256OfLengthAndText) {
  EXPECT_EQ(FingerprintBuilder().Add("abc").Finish().ToHex(), "ce91dc5eec0139adf091900d225971d6");
  EXPECT_EQ(FingerprintBuilder().Add("abc").Finish().ShortHex(),
            std::string("ce91dc5eec0139adf091900d225971d6").substr(0, 8));
}

TEST(HashTest, FingerprintTellsWhereAnUpdateEnds) {
  EXPECT_NE(FingerprintBuilder().Add("ab").Add("c").Finish(),
            FingerprintBuilder().Add("a").Add("bc").Finish());
  EXPECT_TRUE(Fingerprint().IsZero());
}

TEST(OptionsTest, NearestNameIsTheLikelyOneOrNone) {
  EXPECT_EQ(NearestName("--adress", {"--address", "--lease_ms"}), "--address");
  EXPECT_EQ(NearestName("--zzzzzz", {"--address", "--lease_ms"}), "");
  EXPECT_EQ(NearestName("x", {}), "");
}

TEST(OptionsTest, UnknownFlagNamesTheNearest) {
  CLI::App app("test");
  int lease = 0;
  app.add_option("--lease_ms", lease)->check(CLI::Range(1, 10));
  const char* unknown[] = {"test", "--lese_ms=5"};
  EXPECT_THAT(ParseCommandLine(app, 2, unknown),
              StatusIs(absl::StatusCode::kInvalidArgument, "did you mean --lease_ms?"));
  const char* outside[] = {"test", "--lease_ms", "11"};
  const absl::Status status = ParseCommandLine(app, 3, outside);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, "11"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, "lease_ms"));
  const char* help[] = {"test", "--help"};
  EXPECT_THAT(ParseCommandLine(app, 2, help), StatusIs(absl::StatusCode::kCancelled, "--lease_ms"));
  const char* good[] = {"test", "--lease_ms", "7"};
  EXPECT_THAT(ParseCommandLine(app, 3, good), IsOk());
  EXPECT_EQ(lease, 7);
}

TEST(OptionsTest, EveryProgramTellsItsVersion) {
  CLI::App app("test");
  const char* version[] = {"/opt/lexico/bin/lexico-worker", "--version"};
  EXPECT_THAT(ParseCommandLine(app, 2, version),
              StatusIs(absl::StatusCode::kCancelled, "lexico-worker " LEXICO_VERSION "\n"));
}

TEST(OptionsTest, AddressesAreCheckedWithTheirValueAndTheRemedy) {
  for (const char* good : {"127.0.0.1:50051", "localhost:1", "h:65535", "[::1]:50051"}) {
    EXPECT_THAT(CheckAddress("--server", good, AddressUse::kConnect), IsOk()) << good;
  }
  for (const auto& [bad, why] : std::initializer_list<std::pair<const char*, const char*>>{
           {"", "it is empty"},
           {"localhost", "it has no port"},
           {":50051", "it has no host"},
           {"h:", "its port is empty"},
           {"h:http", "port http is not a number"},
           {"h:-1", "port -1 is not a number"},
           {"h:65536", "port 65536 is too large"},
           {"h:99999999999999999999", "is too large"},
           {"::1:50051", "in brackets"},
           {"h:0", "port 0 cannot be connected to"}}) {
    const absl::Status status = CheckAddress("--server", bad, AddressUse::kConnect);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, why)) << bad;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 std::string("--server \"") + bad + "\": "));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, "a port from 1 to 65535"));
  }
  EXPECT_THAT(CheckAddress("--address", "h:0", AddressUse::kListen), IsOk());
}

TEST(OptionsTest, ByteSizesInAllForms) {
  size_t bytes = 0;
  for (const auto& [text, expected] : std::initializer_list<std::pair<const char*, size_t>>{
           {"4096", 4096}, {"512MiB", 512u << 20}, {"1.5GB", 1500000000}, {" 2 kib ", 2048}}) {
    ASSERT_THAT(ParseByteSize(text, &bytes), IsOk()) << text;
    EXPECT_EQ(bytes, expected) << text;
  }
  for (const char* bad : {"", "x", "-1", "4XB", "1e30GiB", "nan"}) {
    EXPECT_THAT(ParseByteSize(bad, &bytes), StatusIs(absl::StatusCode::kInvalidArgument, "512MiB"))
        << bad;
  }
  EXPECT_EQ(HumanBytes(1803550), "1.72 MiB");
  EXPECT_EQ(HumanBytes(512), "512 B");
}

TEST(StatusTest, AnnotateKeepsCodeAndPayload) {
  absl::Status status = absl::NotFoundError("gone");
  status.SetPayload("url", absl::Cord("payload"));
  const absl::Status annotated = Annotate(status, "session s");
  EXPECT_THAT(annotated, StatusIs(absl::StatusCode::kNotFound, "session s: gone"));
  EXPECT_EQ(annotated.GetPayload("url"), absl::Cord("payload"));
  EXPECT_THAT(Annotate(absl::OkStatus(), "x"), IsOk());
}

TEST(FaultTest, RuleSkipsCountsAndClears) {
  FaultInjector faults;
  EXPECT_THAT(faults.Hit("a"), IsOk());
  faults.Set("a", absl::AbortedError("now"), /*count=*/2, /*skip=*/1);
  EXPECT_THAT(faults.Hit("a"), IsOk());
  EXPECT_THAT(faults.Hit("b"), IsOk());
  EXPECT_THAT(faults.Hit("a"), StatusIs(absl::StatusCode::kAborted, "now"));
  EXPECT_THAT(faults.Hit("a"), StatusIs(absl::StatusCode::kAborted, "now"));
  EXPECT_THAT(faults.Hit("a"), IsOk());
  faults.Set("a", absl::AbortedError("always"));
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(faults.Hit("a").ok());
  faults.Clear();
  EXPECT_THAT(faults.Hit("a"), IsOk());
}

TEST(ClockTest, FakeSleepEndsWhenTimeWasAdvancedFarEnough) {
  FakeClock clock;
  const absl::Time begin = clock.Now();
  std::atomic<bool> is_awake{false};
  std::thread sleeper([&] {
    clock.Sleep(absl::Seconds(10));
    is_awake = true;
  });
  // However the threads are scheduled: ten seconds after whenever the sleep began.
  clock.Advance(absl::Seconds(9));
  while (!is_awake) clock.Advance(absl::Seconds(1));
  sleeper.join();
  EXPECT_GE(clock.Now() - begin, absl::Seconds(10));
}

TEST(ClockTest, FakeTimeStandsStill) {
  FakeClock clock;
  EXPECT_EQ(clock.Now(), clock.Now());
  EXPECT_LT(absl::AbsDuration(Clock::Real()->Now() - absl::Now()), absl::Seconds(5));
}

// The first numbers of the authors' generator with the seed 1234567.
TEST(SplitMixTest, IsTheGeneratorOfThePaper) {
  uint64_t state = 1234567;
  const uint64_t expected[] = {6457827717110365317U, 3203168211198807973U, 9817491932198370423U,
                               4593380528125082431U, 16408922859458223821U};
  for (const uint64_t number : expected) {
    EXPECT_EQ(SplitMixFinish(state += kSplitMixStep), number);
  }
  EXPECT_EQ(SplitMix(1234567), expected[0]);
}

}  // namespace
}  // namespace lexico::base
