// A file system for SQLite that fails when it is told to: the n-th call of one kind, or whatever would make a file too
// large, as a full disk does.
#pragma once

#include <sqlite3.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace cofferdam::test {

/// One per program, under the name "faults": `sqlite:PATH?vfs=faults`. Thread safety: `plan` while nothing runs.
class fault_vfs {
 public:
  enum class call : std::uint8_t { read, write, sync, truncate, open, remove };

  static fault_vfs& instance() {
    static fault_vfs vfs;
    return vfs;
  }

  /// From now on the `n`-th call of this kind fails, once, or (`stays`) it and all that come after it.
  void plan(call what, std::uint64_t n, bool stays = false) noexcept {
    seen_ = 0;
    fired_ = 0;
    stays_ = stays;
    which_ = what;
    fails_at_ = n;
  }
  void heal() noexcept { fails_at_ = 0; }
  /// How often a call failed since `plan`.
  [[nodiscard]] std::uint64_t fired() const noexcept { return fired_; }

  fault_vfs(const fault_vfs&) = delete;
  fault_vfs& operator=(const fault_vfs&) = delete;

 private:
  struct file {
    sqlite3_file base;
    sqlite3_file* real;  // behind this object
  };

  fault_vfs() : real_(sqlite3_vfs_find(nullptr)) {
    vfs_ = *real_;
    vfs_.zName = "faults";
    vfs_.szOsFile = static_cast<int>(sizeof(file)) + real_->szOsFile;
    vfs_.pNext = nullptr;
    vfs_.pAppData = this;
    vfs_.xOpen = [](sqlite3_vfs*, const char* name, sqlite3_file* opened, int flags, int* out) {
      auto& self = instance();
      auto* made = reinterpret_cast<file*>(opened);
      made->base.pMethods = nullptr;
      if (self.fails(call::open)) return SQLITE_CANTOPEN;
      made->real = reinterpret_cast<sqlite3_file*>(made + 1);
      const int result = self.real_->xOpen(self.real_, name, made->real, flags, out);
      if (result == SQLITE_OK) made->base.pMethods = self.methods();
      return result;
    };
    vfs_.xDelete = [](sqlite3_vfs*, const char* name, int sync) {
      auto& self = instance();
      return self.fails(call::remove) ? SQLITE_IOERR_DELETE : self.real_->xDelete(self.real_, name, sync);
    };
    if (sqlite3_vfs_register(&vfs_, 0) != SQLITE_OK) throw std::runtime_error("registering a VFS");
  }

  bool fails(call what) noexcept {
    if (fails_at_ == 0 || what != which_) return false;
    const std::uint64_t n = ++seen_;
    const bool now = stays_ ? n >= fails_at_ : n == fails_at_;
    if (now) ++fired_;
    return now;
  }

  static sqlite3_file* real_of(sqlite3_file* f) noexcept { return reinterpret_cast<file*>(f)->real; }

  /// Those of the first file: the system's are all alike.
  const sqlite3_io_methods* methods() {
    static const sqlite3_io_methods all = [] {
      sqlite3_io_methods m{};
      m.iVersion = 2;  // no memory mapping, which would not pass through here
      m.xClose = [](sqlite3_file* f) { return real_of(f)->pMethods->xClose(real_of(f)); };
      m.xRead = [](sqlite3_file* f, void* to, int amount, sqlite3_int64 at) {
        if (instance().fails(call::read)) return SQLITE_IOERR_READ;
        return real_of(f)->pMethods->xRead(real_of(f), to, amount, at);
      };
      m.xWrite = [](sqlite3_file* f, const void* from, int amount, sqlite3_int64 at) {
        auto& self = instance();
        if (!self.fails(call::write)) return real_of(f)->pMethods->xWrite(real_of(f), from, amount, at);
        // A disk that fails, or is full, may have written half of it.
        (void)real_of(f)->pMethods->xWrite(real_of(f), from, amount / 2, at);
        return self.stays_ ? SQLITE_FULL : SQLITE_IOERR_WRITE;
      };
      m.xTruncate = [](sqlite3_file* f, sqlite3_int64 size) {
        if (instance().fails(call::truncate)) return SQLITE_IOERR_TRUNCATE;
        return real_of(f)->pMethods->xTruncate(real_of(f), size);
      };
      m.xSync = [](sqlite3_file* f, int flags) {
        if (instance().fails(call::sync)) return SQLITE_IOERR_FSYNC;
        return real_of(f)->pMethods->xSync(real_of(f), flags);
      };
      m.xFileSize = [](sqlite3_file* f, sqlite3_int64* size) {
        return real_of(f)->pMethods->xFileSize(real_of(f), size);
      };
      m.xLock = [](sqlite3_file* f, int lock) { return real_of(f)->pMethods->xLock(real_of(f), lock); };
      m.xUnlock = [](sqlite3_file* f, int lock) { return real_of(f)->pMethods->xUnlock(real_of(f), lock); };
      m.xCheckReservedLock = [](sqlite3_file* f, int* found) {
        return real_of(f)->pMethods->xCheckReservedLock(real_of(f), found);
      };
      m.xFileControl = [](sqlite3_file* f, int what, void* with) {
        return real_of(f)->pMethods->xFileControl(real_of(f), what, with);
      };
      m.xSectorSize = [](sqlite3_file* f) { return real_of(f)->pMethods->xSectorSize(real_of(f)); };
      m.xDeviceCharacteristics = [](sqlite3_file* f) {
        return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
      };
      m.xShmMap = [](sqlite3_file* f, int region, int size, int extend, void volatile** at) {
        return real_of(f)->pMethods->xShmMap(real_of(f), region, size, extend, at);
      };
      m.xShmLock = [](sqlite3_file* f, int offset, int n, int flags) {
        return real_of(f)->pMethods->xShmLock(real_of(f), offset, n, flags);
      };
      m.xShmBarrier = [](sqlite3_file* f) { real_of(f)->pMethods->xShmBarrier(real_of(f)); };
      m.xShmUnmap = [](sqlite3_file* f, int remove) { return real_of(f)->pMethods->xShmUnmap(real_of(f), remove); };
      return m;
    }();
    return &all;
  }

  sqlite3_vfs* real_;
  sqlite3_vfs vfs_{};
  call which_ = call::read;
  bool stays_ = false;
  std::atomic<std::uint64_t> seen_{0}, fired_{0}, fails_at_{0};
};

}  // namespace cofferdam::test
