#include "allocation.hpp"

#include <cstdlib>

namespace {

constexpr std::size_t off = ~std::size_t{0};
thread_local std::size_t remaining = off;
thread_local bool struck_once = false;

void* allocate(std::size_t size) {
  if (remaining != off) {
    if (remaining == 0) {
      struck_once = true;
      remaining = off;
      throw std::bad_alloc();
    }
    --remaining;
  }
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return std::malloc(size == 0 ? 1 : size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return std::malloc(size == 0 ? 1 : size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace cofferdam::test {

failing_allocation::failing_allocation(std::size_t n) noexcept {
  struck_once = false;
  remaining = n;
}
failing_allocation::~failing_allocation() { remaining = off; }
bool failing_allocation::struck() const noexcept { return struck_once; }

}  // namespace cofferdam::test
