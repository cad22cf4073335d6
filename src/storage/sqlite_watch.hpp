// Hears of commits by other processes: inotify on the write-ahead log, and a look now and then in case a wake-up comes
// before the commit can be seen, or not at all.
#pragma once

#include "sqlite_connection.hpp"

#include <cofferdam/storage/detail/driver.hpp>

#include <thread>

namespace cofferdam::inline COFFERDAM_ABI::sqlite {

class commit_watch {
 public:
  /// Errors: `storage_error`, std::system_error.
  commit_watch(const location& where, detail::change_signal& signal);
  ~commit_watch();
  commit_watch(const commit_watch&) = delete;
  commit_watch& operator=(const commit_watch&) = delete;

 private:
  void run();
  bool has_changed();

  owned_connection connection_;
  detail::change_signal& signal_;
  int notifications_ = -1, stop_ = -1;
  std::int64_t version_ = 0;
  std::thread thread_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::sqlite
