#include "tools/eval/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <span>

#include "proto/base/split_mix.h"
#include "proto/base/status.h"

namespace lexico::eval {
namespace {

using Words = std::span<const char* const>;

constexpr const char* kCities[] = {"Marlow", "Tarbert", "Quillan", "Ostend", "Varna",   "Lisse",
                                   "Bergen", "Kotor",   "Aveiro",  "Lund",   "Trento",  "Arles",
                                   "Delft",  "Cobh",    "Ghent",   "Split",  "Nafplio", "Sligo",
                                   "Turku",  "Evora",   "Zadar",   "Bruges", "Namur",   "Perast",
                                   "Ronda",  "Chania",  "Olbia",   "Faro",   "Visby",   "Kaunas"};
constexpr const char* kJobs[] = {
    "baker",      "surveyor",  "botanist",  "carpenter", "violinist",  "librarian",  "glassblower",
    "clockmaker", "physician", "weaver",    "printer",   "stonemason", "translator", "beekeeper",
    "pilot",      "chemist",   "archivist", "gardener",  "blacksmith", "tailor"};
constexpr const char* kPlaces[] = {
    "harbor gate",     "north tower",   "east vault",    "old mill",       "river lodge",
    "glass library",   "copper mine",   "winter garden", "signal station", "chapel archive",
    "south warehouse", "stone bridge",  "map room",      "tide house",     "orchard cellar",
    "museum annex",    "quarry office", "ferry landing", "observatory",    "grain store"};
constexpr const char* kColors[] = {"red",   "blue",  "green",  "amber",  "violet",
                                   "white", "black", "silver", "golden", "crimson"};
constexpr const char* kThings[] = {"lantern",      "ledger",        "compass",    "violin",
                                   "key",          "medallion",     "telescope",  "music box",
                                   "chessboard",   "porcelain cup", "brass bell", "silk banner",
                                   "leather case", "sextant",       "hourglass"};
constexpr const char* kSyllables[] = {"ba", "be", "bi", "bo", "da", "de", "di", "do", "ka", "ke",
                                      "ki", "ko", "la", "le", "li", "lo", "ma", "me", "mi", "mo",
                                      "na", "ne", "ni", "no", "ra", "re", "ri", "ro", "sa", "se",
                                      "si", "so", "ta", "te", "ti", "to", "va", "ve", "vi", "vo"};
constexpr const char* kSubjects[] = {"The council",
                                     "The old road",
                                     "A small party of travellers",
                                     "The museum",
                                     "The river",
                                     "The new railway",
                                     "The author of the chronicle",
                                     "A local newspaper",
                                     "The garrison",
                                     "The school",
                                     "The expedition",
                                     "The harbour master",
                                     "The orchestra",
                                     "The university",
                                     "The second edition",
                                     "A group of farmers",
                                     "The lighthouse",
                                     "The valley",
                                     "The company",
                                     "The winter of that year"};
constexpr const char* kVerbs[] = {
    "was described in detail by",   "was rebuilt after a fire near",
    "was often compared with",      "drew many visitors from",
    "lost most of its trade to",    "was painted several times by",
    "received little support from", "was separated by a forest from",
    "kept close ties with",         "was surveyed on the orders of",
    "became a model for",           "was mentioned in the letters of"};
constexpr const char* kObjects[] = {
    "the neighbouring towns",    "the provincial government",       "a wealthy merchant family",
    "the monastery on the hill", "the ships that passed in spring", "an engineer of the ministry",
    "the market square",         "a society of naturalists",        "the border villages",
    "the eastern islands",       "the workers of the foundry",      "the royal academy"};
constexpr const char* kEndings[] = {"",
                                    ", although the records are incomplete",
                                    ", which surprised most observers",
                                    " during the long dry summer",
                                    ", as later historians have noted",
                                    " until the bridge was closed",
                                    ", and the custom is still kept today",
                                    " for the better part of a century",
                                    ", despite the objections of the clergy",
                                    " before the first census was taken"};

const char* Pick(Random& random, Words words) { return words[random.Below(words.size())]; }

std::string Word(Random& random, int syllables) {
  std::string word;
  for (int i = 0; i < syllables; ++i) word += Pick(random, kSyllables);
  word[0] = static_cast<char>(word[0] - 'a' + 'A');
  return word;
}

std::string Name(Random& random) {
  std::string first = Word(random, 2 + static_cast<int>(random.Below(3) == 2));
  return first + " " + Word(random, 2 + static_cast<int>(random.Below(2)));
}

Fact MakeFact(Random& random) {
  const std::string name = Name(random);
  switch (random.Below(6)) {
    case 0: {
      const std::string place = fmt::format("{} of {}", Pick(random, kPlaces), Word(random, 2));
      const std::string code = fmt::format("{}", 10000 + random.Below(89999));
      return {fmt::format("The access code for the {} is {}.", place, code),
              fmt::format("What is the access code for the {}?", place), code};
    }
    case 1: {
      const std::string city = Pick(random, kCities);
      return {fmt::format("{} lives in {}.", name, city), fmt::format("Where does {} live?", name),
              city};
    }
    case 2: {
      const std::string job = Pick(random, kJobs);
      return {fmt::format("{} works as a {}.", name, job),
              fmt::format("What is the profession of {}?", name), job};
    }
    case 3: {
      const std::string thing = fmt::format("{} {}", Pick(random, kColors), Pick(random, kThings));
      return {fmt::format("{} keeps a {} in the drawer.", name, thing),
              fmt::format("What does {} keep in the drawer?", name), thing};
    }
    case 4: {
      const std::string year = fmt::format("{}", 1500 + random.Below(499));
      return {fmt::format("{} was born in the year {}.", name, year),
              fmt::format("In what year was {} born?", name), year};
    }
    default: {
      const std::string number =
          fmt::format("{} {}", 100 + random.Below(899), 100 + random.Below(899));
      return {fmt::format("The telephone number of {} is {}.", name, number),
              fmt::format("What is the telephone number of {}?", name), number};
    }
  }
}

std::vector<std::string> GeneratedSentences(Random& random, int64_t n_bytes) {
  std::vector<std::string> sentences;
  for (int64_t bytes = 0; bytes < n_bytes;) {
    sentences.push_back(fmt::format("{} {} {}{}.", Pick(random, kSubjects), Pick(random, kVerbs),
                                    Pick(random, kObjects), Pick(random, kEndings)));
    bytes += static_cast<int64_t>(sentences.back().size()) + 1;
  }
  return sentences;
}

// Sentences of a random slice; the first and the last, which the slice may have cut, are dropped.
absl::StatusOr<std::vector<std::string>> FileSentences(Random& random, const std::string& path,
                                                       int64_t n_bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError(fmt::format("cannot open the text file {}", path));
  const int64_t size = file.tellg();
  if (size < n_bytes) {
    return absl::InvalidArgumentError(fmt::format(
        "{} has {} bytes, the document needs {}; take a longer text", path, size, n_bytes));
  }
  file.seekg(static_cast<int64_t>(random.Below(static_cast<uint64_t>(size - n_bytes) + 1)));
  std::string slice(static_cast<size_t>(n_bytes), '\0');
  file.read(slice.data(), n_bytes);
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (size_t i = 1; i < slice.size(); ++i) {
    const bool ends = (slice[i - 1] == '.' || slice[i - 1] == '!' || slice[i - 1] == '?') &&
                      (slice[i] == ' ' || slice[i] == '\n');
    if (!ends) continue;
    sentences.push_back(slice.substr(begin, i - begin));
    while (i < slice.size() && (slice[i] == ' ' || slice[i] == '\n')) ++i;
    begin = i;
  }
  if (sentences.size() < 3) {
    return absl::InvalidArgumentError(
        fmt::format("{} has no sentences in the chosen {} bytes", path, n_bytes));
  }
  sentences.erase(sentences.begin());
  return sentences;
}

}  // namespace

uint64_t Random::Next() { return base::SplitMixFinish(state_ += base::kSplitMixStep); }

absl::StatusOr<Document> MakeDocument(const DocumentOptions& options) {
  if (options.n_facts < 1 || options.n_facts > 200) {
    return absl::InvalidArgumentError(
        fmt::format("{} facts, a document takes 1 to 200", options.n_facts));
  }
  Random random(options.seed);
  std::vector<std::string> sentences;
  if (options.text_file.empty()) {
    sentences = GeneratedSentences(random, options.n_bytes);
  } else {
    LEXICO_ASSIGN_OR_RETURN(sentences, FileSentences(random, options.text_file, options.n_bytes));
  }
  Document document;
  std::set<std::string> questions;
  while (static_cast<int>(document.facts.size()) < options.n_facts) {
    Fact fact = MakeFact(random);
    if (questions.insert(fact.question).second) document.facts.push_back(std::move(fact));
  }
  for (const Fact& fact : document.facts) {
    sentences.insert(sentences.begin() + static_cast<int64_t>(random.Below(sentences.size() + 1)),
                     fact.sentence);
  }
  for (const std::string& sentence : sentences) {
    if (!document.text.empty()) document.text += ' ';
    document.text += sentence;
  }
  for (Fact& fact : document.facts) {
    fact.depth = static_cast<double>(document.text.find(fact.sentence)) /
                 static_cast<double>(document.text.size());
  }
  return document;
}

absl::StatusOr<Document> MakeDocumentOfTokens(DocumentOptions options,
                                              const worker::Tokenizer& tokenizer,
                                              int64_t n_tokens) {
  double bytes_per_token = 3.6;
  for (int attempt = 0;; ++attempt) {
    options.n_bytes = static_cast<int64_t>(static_cast<double>(n_tokens) * bytes_per_token);
    LEXICO_ASSIGN_OR_RETURN(Document document, MakeDocument(options));
    LEXICO_ASSIGN_OR_RETURN(const auto ids, tokenizer.Encode(document.text, false));
    const auto n = static_cast<int64_t>(ids.size());
    // Within half a percent below the wish, or the best of a few tries that is not above it.
    if (n <= n_tokens && (n >= n_tokens - n_tokens / 200 || attempt >= 8)) return document;
    bytes_per_token *= 0.999 * static_cast<double>(n_tokens) / static_cast<double>(n);
  }
}

bool IsRightAnswer(std::string_view given, std::string_view expected) {
  const auto is_edge = [](char c) { return c == ' ' || c == '\n' || c == '.' || c == '\t'; };
  while (!given.empty() && is_edge(given.front())) given.remove_prefix(1);
  while (!given.empty() && is_edge(given.back())) given.remove_suffix(1);
  return given == expected;
}

}  // namespace lexico::eval
