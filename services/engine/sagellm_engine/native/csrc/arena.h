// Parts of one piece of memory.
#pragma once

#include <cstdint>

#include "panels.h"

namespace SAGE_ISA {

// Divides scratch memory; every part begins on a cache line.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(base_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace SAGE_ISA
