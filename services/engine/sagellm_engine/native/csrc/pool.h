// Threads that work on one call together: they are started once, wait a bounded time awake, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace sage {

class Pool {
 public:
  using Task = void (*)(void* argument, int thread);

  static Pool& instance();
  ~Pool();

  int size() const { return size_; }

  // Changes the number of threads, the caller of run() included. Thread i stays on the i-th of the processors, the
  // caller as long as run() takes; without processors the system decides.
  void resize(int size, std::vector<int> processors);

  // Runs the task on every thread at once and waits for all; a second caller waits for the first.
  void run(Task task, void* argument);

  // Within a task: waits until every thread has come here. Each tells the others by a cache line of its own, so that
  // nobody waits for more than one line to cross between two cores.
  void barrier(int thread);

 private:
  struct Arrivals {
    alignas(128) std::atomic<uint32_t> count{0};  // lines are fetched in pairs
  };

  void work(int thread, int processor, uint64_t seen);
  void stop();
  void run_together(Task task, void* argument);

  std::mutex calls_;
  int size_ = 1;
  std::vector<int> processors_;  // to pin to, by thread; empty: none
  std::vector<std::thread> threads_;
  Task task_ = nullptr;
  void* argument_ = nullptr;
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<int> running_{0};
  std::unique_ptr<Arrivals[]> arrivals_{new Arrivals[1]};  // of each thread
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace sage
