// Intrusive counted reference: for objects shared by the timer service, a coroutine and whoever wakes it.
#pragma once

#include <cofferdam/core/config.hpp>

#include <atomic>
#include <new>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

class counted {
 public:
  counted(const counted&) = delete;
  counted& operator=(const counted&) = delete;

  void add_reference() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    // Release publishes this owner's writes, acquire makes all of them visible to the destructor.
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  /// Of any size: the memory may be a `room`.
  static void operator delete(void* memory) noexcept { ::operator delete(memory); }

 protected:
  counted() noexcept = default;
  virtual ~counted() = default;

 private:
  std::atomic<int> references_{1};
};

template <class T> class reference {
 public:
  reference() noexcept = default;
  /// Takes over one count.
  explicit reference(T* adopted) noexcept : object_(adopted) {}
  reference(const reference& other) noexcept : object_(other.object_) {
    if (object_ != nullptr) object_->add_reference();
  }
  reference(reference&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  reference& operator=(reference other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~reference() {
    if (object_ != nullptr) object_->release();
  }
  [[nodiscard]] static reference share(T& object) noexcept {
    object.add_reference();
    return reference(&object);
  }

  T* operator->() const noexcept { return object_; }
  T& operator*() const noexcept { return *object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
