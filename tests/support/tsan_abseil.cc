// Tells ThreadSanitizer what Debian's Abseil does not: that its mutexes and notifications order
// memory.
//
// The library is not instrumented, so ThreadSanitizer would report every access that an absl::Mutex
// guards. These definitions stand in the test program and therefore come before the library's; each
// calls the library's own (the next one of that name) between the annotations. Conditions of Await
// are evaluated inside the library, by whichever thread unlocks, with the mutex held: accesses in
// there are ignored.
//
// Linked into tests of the tsan preset only (tools/cmake/Targets.cmake).
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>
#include <mutex>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace {

// The library's function of that mangled name.
template <typename Function>
Function* Next(const char* name) {
  void* const found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) std::abort();  // another Abseil than Debian 12's
  return reinterpret_cast<Function*>(found);
}

class Ignored {
 public:
  Ignored() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Ignored() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};

}  // namespace

// The member function `name` (mangled, without the namespaces), looked up once.
#define LEXICO_NEXT(name, result, ...) \
  static auto* const next = Next<result(__VA_ARGS__)>("_ZN4absl7debian3" name)

namespace absl {
ABSL_NAMESPACE_BEGIN

// Counts a reference of a shared status down, and deletes it with the last: one thread at a time,
// so that each is seen to come behind those before it.
void Status::UnrefNonInlined(uintptr_t rep) {
  LEXICO_NEXT("6Status15UnrefNonInlinedEm", void, uintptr_t);
  static auto& mutex = *new std::mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  next(rep);
}

void Mutex::Lock() {
  LEXICO_NEXT("5Mutex4LockEv", void, Mutex*);
  {
    Ignored ignored;
    next(this);
  }
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  LEXICO_NEXT("5Mutex6UnlockEv", void, Mutex*);
  __tsan_release(this);
  Ignored ignored;
  next(this);
}

bool Mutex::TryLock() {
  LEXICO_NEXT("5Mutex7TryLockEv", bool, Mutex*);
  const bool locked = next(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  LEXICO_NEXT("5Mutex10ReaderLockEv", void, Mutex*);
  {
    Ignored ignored;
    next(this);
  }
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  LEXICO_NEXT("5Mutex12ReaderUnlockEv", void, Mutex*);
  __tsan_release(this);
  Ignored ignored;
  next(this);
}

void Mutex::Await(const Condition& condition) {
  LEXICO_NEXT("5Mutex5AwaitERKNS0_9ConditionE", void, Mutex*, const Condition&);
  __tsan_release(this);
  {
    Ignored ignored;
    next(this, condition);
  }
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  LEXICO_NEXT("5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE", bool, Mutex*,
              const Condition&, Duration);
  __tsan_release(this);
  bool result;
  {
    Ignored ignored;
    result = next(this, condition, timeout);
  }
  __tsan_acquire(this);
  return result;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  LEXICO_NEXT("5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE", bool, Mutex*,
              const Condition&, Time);
  __tsan_release(this);
  bool result;
  {
    Ignored ignored;
    result = next(this, condition, deadline);
  }
  __tsan_acquire(this);
  return result;
}

void CondVar::Wait(Mutex* mutex) {
  LEXICO_NEXT("7CondVar4WaitEPNS0_5MutexE", void, CondVar*, Mutex*);
  __tsan_release(mutex);
  {
    Ignored ignored;
    next(this, mutex);
  }
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  LEXICO_NEXT("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE", bool, CondVar*, Mutex*,
              Duration);
  __tsan_release(mutex);
  bool result;
  {
    Ignored ignored;
    result = next(this, mutex, timeout);
  }
  __tsan_acquire(mutex);
  return result;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  LEXICO_NEXT("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", bool, CondVar*, Mutex*, Time);
  __tsan_release(mutex);
  bool result;
  {
    Ignored ignored;
    result = next(this, mutex, deadline);
  }
  __tsan_acquire(mutex);
  return result;
}

void Notification::Notify() {
  LEXICO_NEXT("12Notification6NotifyEv", void, Notification*);
  // HasBeenNotified is inline: an atomic load of the flag behind the mutex.
  __tsan_release(reinterpret_cast<char*>(this) + sizeof(Mutex));
  Ignored ignored;
  next(this);
}

void Notification::WaitForNotification() const {
  static auto* const next =
      Next<void(const Notification*)>("_ZNK4absl7debian312Notification19WaitForNotificationEv");
  next(this);
  (void)HasBeenNotified();
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static auto* const next = Next<bool(const Notification*, Duration)>(
      "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  return next(this, timeout) && HasBeenNotified();
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  static auto* const next = Next<bool(const Notification*, Time)>(
      "_ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE");
  return next(this, deadline) && HasBeenNotified();
}

ABSL_NAMESPACE_END
}  // namespace absl
