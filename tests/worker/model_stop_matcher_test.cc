// No part of a stop string is ever shown, and nothing else is lost, however the text is cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "worker/model/stop_matcher.h"

namespace lexico::worker {
namespace {

TEST(StopMatcherTest, WithoutStopStringsEverythingPassesAtOnce) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Feed("abc"), "abc");
  EXPECT_EQ(matcher.Flush(), "");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcherTest, EmptyStopStringsAreIgnored) {
  StopMatcher matcher({"", "x"});
  EXPECT_EQ(matcher.Feed("abc"), "abc");
  EXPECT_EQ(matcher.Feed("dxe"), "d");
  EXPECT_EQ(matcher.matched_string(), "x");
}

TEST(StopMatcherTest, HoldsBackWhatMayBeginAStopString) {
  StopMatcher matcher({"</s>"});
  EXPECT_EQ(matcher.Feed("a</"), "a");
  EXPECT_EQ(matcher.Feed("s"), "");
  EXPECT_EQ(matcher.Feed("x"), "</sx");
  EXPECT_EQ(matcher.Feed("<"), "");
  EXPECT_EQ(matcher.Flush(), "<");
}

TEST(StopMatcherTest, FindsAStopStringCutIntoBytes) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Feed("E"), "");
  EXPECT_EQ(matcher.Feed("N"), "");
  EXPECT_EQ(matcher.Feed("D and more"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Feed("later"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, ARepeatedBeginningDoesNotHideTheMatch) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.Feed("aa"), "");
  EXPECT_EQ(matcher.Feed("a"), "a");
  EXPECT_EQ(matcher.Feed("b"), "");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopMatcherTest, TheOneThatIsCompleteFirstWinsAndOfSeveralTheLongest) {
  StopMatcher longest({"cd", "bcd", "d"});
  EXPECT_EQ(longest.Feed("abcde"), "a");
  EXPECT_EQ(longest.matched_string(), "bcd");
  StopMatcher first({"bcd", "c"});
  EXPECT_EQ(first.Feed("abcde"), "ab");
  EXPECT_EQ(first.matched_string(), "c");
}

// Against the whole text at once, over random texts, stop strings and cuts.
TEST(StopMatcherTest, AnyCuttingShowsTheTextBeforeTheFirstStop) {
  std::mt19937 random(20240611);
  const auto word = [&](int n_max) {
    std::string text(1 + random() % n_max, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    const std::vector<std::string> stops = {word(5), word(5)};
    const std::string text = word(30);
    // (end, begin) of the match that must win.
    std::pair<size_t, size_t> wanted(std::string::npos, text.size());
    for (const std::string& stop : stops) {
      const size_t begin = text.find(stop);
      if (begin == std::string::npos) continue;
      wanted = std::min(wanted, {begin + stop.size(), begin});
    }
    const size_t end = wanted.second;
    StopMatcher matcher(stops);
    std::string shown;
    for (size_t i = 0; i < text.size();) {
      const size_t n = 1 + random() % 4;
      shown += matcher.Feed(std::string_view(text).substr(i, n));
      i += n;
      ASSERT_LE(shown.size(), end) << text << " " << stops[0] << " " << stops[1];
    }
    shown += matcher.Flush();
    EXPECT_EQ(shown, text.substr(0, end)) << text << " " << stops[0] << " " << stops[1];
    EXPECT_EQ(matcher.matched(), end < text.size());
  }
}

}  // namespace
}  // namespace lexico::worker
