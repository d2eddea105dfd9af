#include "pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <utility>

namespace sage {

namespace {

constexpr int kSpinsBeforeYield = 2000;  // some ten microseconds
constexpr auto kAwake = std::chrono::microseconds(1000);  // longer than what lies between two steps

void pin_to(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

// Keeps the calling thread on a processor while it lives.
class Pinned {
 public:
  explicit Pinned(int processor) {
    if (pthread_getaffinity_np(pthread_self(), sizeof before_, &before_) == 0) pin_to(processor);
  }
  ~Pinned() { pthread_setaffinity_np(pthread_self(), sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

// Waits awake; gives the processor to others when it takes long, for the one waited for may need it.
template <class Condition>
void spin_until(Condition done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpinsBeforeYield)
      _mm_pause();
    else
      sched_yield();
  }
}

}  // namespace

Pool& Pool::instance() {
  static Pool* pool = new Pool;  // never destroyed: threads may outlive the end of main
  return *pool;
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
  stopping_ = false;
}

void Pool::resize(int size, std::vector<int> processors) {
  std::lock_guard<std::mutex> alone(calls_);
  stop();
  size_ = size < 1 ? 1 : size;
  arrivals_.reset(new Arrivals[size_]);
  processors_ = size_ > 1 ? std::move(processors) : std::vector<int>();
  for (int thread = 1; thread < size_; ++thread) {
    const int processor = processors_.empty() ? -1 : processors_[thread % processors_.size()];
    threads_.emplace_back([this, thread, processor, seen = generation_.load()] { work(thread, processor, seen); });
  }
}

void Pool::run(Task task, void* argument) {
  std::lock_guard<std::mutex> alone(calls_);
  if (size_ == 1) {
    task(argument, 0);
  } else if (processors_.empty()) {
    run_together(task, argument);
  } else {
    const Pinned pinned(processors_[0]);
    run_together(task, argument);
  }
}

void Pool::run_together(Task task, void* argument) {
  task_ = task;
  argument_ = argument;
  running_.store(size_ - 1, std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  task(argument, 0);
  spin_until([this] { return running_.load(std::memory_order_acquire) == 0; });
}

void Pool::barrier(int thread) {
  const uint32_t count = arrivals_[thread].count.load(std::memory_order_relaxed) + 1;
  arrivals_[thread].count.store(count, std::memory_order_release);
  for (int other = 0; other < size_; ++other)
    spin_until([&] {  // one that has gone on is one ahead
      return static_cast<int32_t>(arrivals_[other].count.load(std::memory_order_acquire) - count) >= 0;
    });
}

void Pool::work(int thread, int processor, uint64_t seen) {
  if (processor >= 0) pin_to(processor);
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kAwake;
    spin_until([&] {
      return generation_.load(std::memory_order_acquire) != seen || std::chrono::steady_clock::now() > until;
    });
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen || stopping_.load(); });
    }
    if (stopping_.load() && generation_.load() == seen) return;
    seen = generation_.load(std::memory_order_acquire);
    task_(argument_, thread);
    running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace sage
