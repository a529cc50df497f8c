#include "tools/bench_serving/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "proto/base/status.h"
#include "tools/bench_serving/arrivals.h"
#include "tools/bench_serving/text.h"
#include "tools/bench_serving/visit.h"
#include "tools/cli/text_input.h"

namespace lexico::bench_serving {
namespace {

using std::chrono::steady_clock;

constexpr absl::Duration kSlice = absl::Milliseconds(20);

// Threads that are made when nobody is free, at most kUsersMax.
class Crowd {
 public:
  ~Crowd() {
    {
      absl::MutexLock lock(&mutex_);
      is_closed_ = true;
    }
    for (std::thread& thread : threads_) thread.join();
  }

  // False when all are busy and there may be no more.
  bool Post(std::function<void()> task) {
    absl::MutexLock lock(&mutex_);
    if (tasks_.size() >= n_idle_) {
      if (threads_.size() >= kUsersMax) return false;
      threads_.emplace_back([this] { Work(); });
      ++n_idle_;  // it comes for this task
    }
    tasks_.push_back(std::move(task));
    return true;
  }

 private:
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return is_closed_ || !tasks_.empty();
  }
  void Work() {
    while (true) {
      std::function<void()> task;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Crowd::HasNews));
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
        --n_idle_;
      }
      task();
      absl::MutexLock lock(&mutex_);
      ++n_idle_;
    }
  }

  absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  size_t n_idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // of the thread that posts
};

class Load {
 public:
  // `ids` begins the session ids; no other run has it.
  Load(const cli::Client& client, const Options& options, std::string profile, std::string ids,
       std::string document, int64_t n_words, const std::atomic<bool>& stop)
      : client_(client),
        options_(options),
        profile_(std::move(profile)),
        ids_(std::move(ids)),
        document_(std::move(document)),
        n_words_(n_words),
        stop_(stop) {}

  ProfileResult Closed(int n_users, int n_visits) {
    const SteadyTime begin = steady_clock::now();
    std::atomic<int> next{0};
    std::vector<std::thread> users;
    for (int i = 0; i < n_users; ++i) {
      users.emplace_back([&] {
        for (int k = next++; k < n_visits && !IsOver(); k = next++) {
          const VisitPlan plan = PlanOf(k);
          Visit(plan, steady_clock::now());
        }
      });
    }
    for (std::thread& user : users) user.join();
    return Result(begin);
  }

  ProfileResult Open() {
    const std::vector<double> times =
        PoissonArrivals(options_.rate, options_.sessions, options_.seed);
    const SteadyTime begin = steady_clock::now();
    {
      Crowd crowd;
      for (int k = 0; k < options_.sessions; ++k) {
        const SteadyTime arrival =
            begin + std::chrono::duration_cast<steady_clock::duration>(
                        std::chrono::duration<double>(times[static_cast<size_t>(k)]));
        WaitUntil(arrival);
        if (IsOver()) break;
        if (!crowd.Post([this, k, arrival] { Visit(PlanOf(k), arrival); })) Drop();
      }
    }
    return Result(begin);
  }

 private:
  // Ends also when nobody can be served any more.
  bool IsOver() const { return stop_ || is_away_; }

  void WaitUntil(SteadyTime time) {
    while (!IsOver()) {
      const auto left = absl::FromChrono(time - steady_clock::now());
      if (left <= absl::ZeroDuration()) return;
      absl::SleepFor(std::min(left, kSlice));
    }
  }

  VisitPlan PlanOf(int k) const {
    VisitPlan plan{.session_id = fmt::format("{}-{}", ids_, k),
                   .model = options_.model,
                   .profile = profile_,
                   .n_new = options_.n_new,
                   .ignore_end = options_.ignore_end,
                   .retries_max = options_.is_open() ? 0 : options_.retries_max};
    // The same visits for every profile.
    std::mt19937_64 seeds(options_.seed + static_cast<uint64_t>(k));
    plan.document = document_.empty() ? RandomWords(n_words_, seeds()) : document_;
    for (int i = 0; i < options_.questions; ++i) plan.questions.push_back(RandomQuestion(seeds()));
    return plan;
  }

  void Visit(const VisitPlan& plan, SteadyTime arrival) {
    const VisitOutcome outcome = MakeVisit(client_, plan, arrival, stop_);
    // A worker that leaves is UNAVAILABLE too: whether the coordinator is there, it says itself.
    absl::Status there;
    if (absl::IsUnavailable(outcome.status)) {
      there = client_.Call(&v1::Inference::Stub::ListModels, v1::ListModelsRequest()).status();
    }
    absl::MutexLock lock(&mutex_);
    tally_.Add(outcome.tally);
    if (!absl::IsUnavailable(there)) return;
    is_away_ = true;
    away_status_ = there;
  }

  // An arrival for which there is no thread.
  void Drop() {
    absl::MutexLock lock(&mutex_);
    Tally tally;
    tally.n_visits = tally.n_refused = 1;
    tally.refusals["client_full"] = {
        .n = 1, .example = fmt::format("{} visits were under way; lower --rate", kUsersMax)};
    tally_.Add(tally);
  }

  ProfileResult Result(SteadyTime begin) {
    absl::MutexLock lock(&mutex_);
    return {.profile = profile_,
            .tally = std::move(tally_),
            .wall_s = std::chrono::duration<double>(steady_clock::now() - begin).count(),
            .status = away_status_};
  }

  const cli::Client& client_;
  const Options& options_;
  const std::string profile_;
  const std::string ids_;
  const std::string document_;
  const int64_t n_words_;
  const std::atomic<bool>& stop_;
  std::atomic<bool> is_away_{false};
  absl::Mutex mutex_;
  Tally tally_ ABSL_GUARDED_BY(mutex_);
  absl::Status away_status_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::string> ReadDocument(const std::string& path) {
  std::string text;
  if (path.empty()) return text;
  LEXICO_RETURN_IF_ERROR(cli::ReadTextFile(path, [&](std::string_view chunk, size_t) {
    text += chunk;
    return absl::OkStatus();
  }));
  if (text.empty()) return absl::InvalidArgumentError(fmt::format("--document {} is empty", path));
  return text;
}

// A session that is created and deleted.
absl::Status Probe(const cli::Client& client, const Options& options, const std::string& profile,
                   const std::string& id, const std::atomic<bool>& stop) {
  const VisitPlan plan{.session_id = id, .model = options.model, .profile = profile};
  const VisitOutcome outcome = MakeVisit(client, plan, steady_clock::now(), stop);
  // No room now is a result, not a mistake; no worker at all is not.
  return absl::IsResourceExhausted(outcome.status) ? absl::OkStatus() : outcome.status;
}

}  // namespace

absl::StatusOr<ProfileResult> LoadProfile(const cli::Client& client, const Options& options,
                                          const std::string& profile,
                                          const std::atomic<bool>& stop) {
  std::random_device random;
  const std::string ids = fmt::format("bench-{:08x}{:08x}", random(), random());
  LEXICO_ASSIGN_OR_RETURN(const std::string document, ReadDocument(options.document_path));
  LEXICO_RETURN_IF_ERROR(Probe(client, options, profile, ids + "-probe", stop));
  LEXICO_ASSIGN_OR_RETURN(const int64_t n_words,
                          WordsOfTokens(client, options.model, options.document_tokens));
  if (options.warmup > 0) {
    Load warmup(client, options, profile, ids + "-warmup", document, n_words, stop);
    LEXICO_RETURN_IF_ERROR(warmup.Closed(1, options.warmup).status);
  }
  Load load(client, options, profile, ids, document, n_words, stop);
  return options.is_open() ? load.Open() : load.Closed(options.users, options.sessions);
}

}  // namespace lexico::bench_serving
