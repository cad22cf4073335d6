#include "sqlite_watch.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <system_error>

namespace cofferdam::inline COFFERDAM_ABI::sqlite {

commit_watch::commit_watch(const location& where, detail::change_signal& signal)
    : connection_(where, access::read, 0), signal_(signal) {
  has_changed();  // opens the log, which is the file to watch
  notifications_ = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  stop_ = eventfd(0, EFD_CLOEXEC);
  if (notifications_ < 0 || stop_ < 0) {
    const std::error_code why(errno, std::system_category());
    ::close(notifications_);
    ::close(stop_);
    throw std::system_error(why, "watching the log of '" + where.path + "'");
  }
  // Without the file, the look now and then has to do.
  inotify_add_watch(notifications_, (where.path + "-wal").c_str(), IN_MODIFY);
  thread_ = std::thread([this] { run(); });
}

commit_watch::~commit_watch() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(stop_, &one, sizeof one);
  thread_.join();
  ::close(notifications_);
  ::close(stop_);
}

void commit_watch::run() {
  constexpr int now_and_then = 250;
  // A log is written before its commit can be seen: look again after these times.
  constexpr std::array<int, 2> again{1, 10};
  std::size_t look = again.size();
  for (;;) {
    std::array<pollfd, 2> waiting{{{stop_, POLLIN, 0}, {notifications_, POLLIN, 0}}};
    const int ready = ::poll(waiting.data(), waiting.size(), look < again.size() ? again[look] : now_and_then);
    if (waiting[0].revents != 0) return;
    if (ready > 0) {
      std::array<char, 4096> events;
      while (::read(notifications_, events.data(), events.size()) > 0) {
      }
      look = 0;
    } else if (look < again.size()) {
      ++look;
    }
    if (has_changed()) signal_.raise();
  }
}

bool commit_watch::has_changed() {
  try {
    prepared p = connection_.prepare("pragma data_version");
    const bool found = p.step();
    const std::int64_t version = found ? p.integer(0) : version_;
    return std::exchange(version_, version) != version;
  } catch (const storage_error&) {
    return true;  // locked or unreadable for now: whoever waits looks for himself
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::sqlite
