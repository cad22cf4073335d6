// Memory for the object that an operation shares with whoever completes it, taken before the coroutine is suspended:
// its caller then gets std::bad_alloc. Within an initiation Asio would lose the coroutine.
#pragma once

#include <cofferdam/core/config.hpp>

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Stands for Asio's handlers, whose types are known only when they are made.
struct some_handler {
  void* coroutine;
};

/// Room for one `Shared<Bound..., some_handler>`, and so for one of any handler.
template <template <class...> class Shared, class... Bound> class room {
 public:
  room() : memory_(::operator new(size)) {}

  /// Once. The object is `counted`, which gives its memory back.
  template <class Handler, class... Args> Shared<Bound..., Handler>* make(Handler handler, Args&&... args) noexcept {
    using made = Shared<Bound..., Handler>;
    static_assert(sizeof(made) <= size && alignof(made) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
    return ::new (memory_.release()) made(std::move(handler), std::forward<Args>(args)...);
  }

 private:
  struct give_back {
    void operator()(void* memory) const noexcept { ::operator delete(memory); }
  };
  static constexpr std::size_t size = sizeof(Shared<Bound..., some_handler>);
  std::unique_ptr<void, give_back> memory_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
