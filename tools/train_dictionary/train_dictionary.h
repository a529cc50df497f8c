// The whole way from a model folder and a text to a dictionary file.
//
//   text      checked, fingerprinted; its last tenth, or another text, is held out
//   windows   runs of tokens from all over the rest, each at a random place among the positions
//             that will be served (gather.h says why a short window shows far positions)
//   rounds    each gathers a set of keys and values from windows of its own (vector_set.h), of
//             bounded size, and trains on it (trainer.h); after each the errors on held-out vectors
//             of windows from position 0 to the last one served and, if asked for, a checkpoint
//   file      worker/model/dictionary_file.h, with fingerprints and the facts of the training
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/train_dictionary/trainer.h"

namespace lexico::train_dictionary {

inline constexpr int64_t kWindowTokens = 2048;
inline constexpr int64_t kSamplesPerAtom = 64;
inline constexpr int kRounds = 12;

struct Options {
  std::string model_dir;
  std::vector<std::string> text_files;
  std::string held_out_file;  // empty: the last tenth of the text is held out
  std::string from;           // a dictionary to begin with; empty: atoms of data and noise
  std::string out;
  std::string checkpoint;  // empty: none
  int n_atoms = 4096;
  int sparsity = 8;
  int64_t n_positions = 0;  // served; 0: the model's, or what the held-out text allows
  int64_t window_tokens = kWindowTokens;  // of a run of text
  int64_t n_samples = 0;   // vectors of a dictionary a round; 0: kSamplesPerAtom * n_atoms, or all
  int n_rounds = kRounds;  // 0: only measure `from`
  int n_passes = 3;        // of a round over its vectors
  uint64_t seed = 1;
  std::string device = "cpu";
  int threads = 0;
};

// What a watcher hears. `fraction` of the stage is done.
struct Progress {
  enum class Stage { kRead, kHeldOut, kTrain };
  Stage stage = Stage::kRead;
  double fraction = 0;
  int n_rounds_done = 0;
  // After a round: held-out errors by dictionary; else null.
  const std::vector<HeldOutError>* errors = nullptr;
};

struct Outcome {
  std::vector<HeldOutError> errors;  // by dictionary, of the finished file
  int64_t n_positions = 0;
  int64_t n_samples = 0;  // of a dictionary, each round
  int64_t n_tokens = 0;   // of text that this run put through the model
  int n_rounds_resumed = 0;
};

// Mean over the layers' K (value = false) or V.
double MeanError(const std::vector<HeldOutError>& errors, bool value);

// InvalidArgument, NotFound: an option, the model or the text; FailedPrecondition: a checkpoint of
// another run; ResourceExhausted: no room on the disk, or the device. Each says both values and the
// remedy.
absl::StatusOr<Outcome> TrainDictionary(const Options& options,
                                        const std::function<void(const Progress&)>& watch);

}  // namespace lexico::train_dictionary
