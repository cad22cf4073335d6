#include "sqlite_connection.hpp"

#include <sqlite3.h>

#include <algorithm>
#include <charconv>
#include <new>

namespace cofferdam::inline COFFERDAM_ABI::sqlite {
namespace {

errc code_of(int result) noexcept {
  switch (result & 0xff) {
    case SQLITE_CONSTRAINT:
      return errc::constraint_violated;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return errc::database_busy;
    case SQLITE_FULL:
      return errc::database_full;
    case SQLITE_IOERR:
    case SQLITE_PROTOCOL:
      return errc::database_io_error;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return errc::database_corrupt;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
      return errc::database_unavailable;
    case SQLITE_INTERRUPT:
      return errc::cancelled;
    default:
      return errc::invalid_statement;
  }
}

constexpr std::string_view scheme = "sqlite:";
constexpr const char* reader_type = "cofferdam_reader";

std::string_view text_of(::sqlite3_value* held) noexcept {
  const auto* data = reinterpret_cast<const char*>(sqlite3_value_text(held));
  return data == nullptr ? std::string_view()
                         : std::string_view(data, static_cast<std::size_t>(sqlite3_value_bytes(held)));
}
std::span<const std::byte> bytes_of(::sqlite3_value* held) noexcept {
  const auto* data = static_cast<const std::byte*>(sqlite3_value_blob(held));
  return {data, data == nullptr ? 0 : static_cast<std::size_t>(sqlite3_value_bytes(held))};
}

/// SQL's cofferdam_row(reader, cell, ...).
void give_row(::sqlite3_context* context, int count, ::sqlite3_value** values) {
  auto* reader = count == 0 ? nullptr : static_cast<row_reader*>(sqlite3_value_pointer(values[0], reader_type));
  if (reader == nullptr) return sqlite3_result_error(context, "cofferdam_row is for programs", -1);
  try {
    if (reader->read(cells(values + 1))) sqlite3_result_int(context, 1);  // otherwise it is NULL, not true either
  } catch (const std::bad_alloc&) {
    sqlite3_result_error_nomem(context);
  }
}

/// SQLite tells what a statement will do while it is prepared, however it is written. `flag`: whether it controls
/// transactions.
int note_control(void* flag, int action, const char* /*1*/, const char* /*2*/, const char* /*3*/, const char* /*4*/) {
  if (action == SQLITE_TRANSACTION || action == SQLITE_SAVEPOINT) *static_cast<bool*>(flag) = true;
  return SQLITE_OK;
}

/// "$12" is 12; anything else 0.
int number_of(const char* parameter_name) noexcept {
  if (parameter_name == nullptr || *parameter_name != '$') return 0;
  const std::string_view digits(parameter_name + 1);
  int n = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  return error == std::errc() && end == digits.data() + digits.size() ? n : 0;
}

}  // namespace

void raise(::sqlite3* db, int result, std::string_view doing) {
  if ((result & 0xff) == SQLITE_NOMEM) throw std::bad_alloc();
  std::string message(doing);
  message += ": ";
  message += db != nullptr ? sqlite3_errmsg(db) : sqlite3_errstr(result);
  throw storage_error(code_of(result), std::move(message), std::to_string(result));
}

location parse_location(const std::string& url) {
  const auto wrong = [&url](const std::string& why) {
    return storage_error(errc::database_unavailable,
                         "'" + url + "' " + why + "; write sqlite:PATH, sqlite::memory: or sqlite:PATH?threads=0");
  };
  if (!url.starts_with(scheme)) {
    // Whatever this is, it may hold a password: only the beginning is shown.
    throw storage_error(errc::database_unavailable,
                        "a database URL begins with 'sqlite:', not with '" + url.substr(0, url.find(':')) + "'");
  }
  std::string_view rest = std::string_view(url).substr(scheme.size());
  location found;
  const std::size_t mark = rest.find('?');
  std::string_view query = mark == std::string_view::npos ? std::string_view() : rest.substr(mark + 1);
  found.path = rest.substr(0, mark);
  if (found.path.empty()) throw wrong("names no file");
  if (found.path == ":memory:") {
    found.path.clear();
    found.threads = false;
  }
  while (!query.empty()) {
    const std::string_view option = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), option.size() + 1));
    const std::size_t equals = option.find('=');
    const std::string_view key = option.substr(0, equals);
    const std::string_view text = equals == std::string_view::npos ? "" : option.substr(equals + 1);
    if (key == "threads" && (text == "0" || text == "1")) {
      if (text == "1" && found.path.empty()) throw wrong("is in memory and cannot have threads");
      found.threads = text == "1";
    } else if (key == "vfs" && !text.empty()) {
      found.vfs = text;
    } else {
      throw wrong("has the unknown option '" + std::string(option) + "'");
    }
  }
  return found;
}

prepared::entry::entry(::sqlite3* database, ::sqlite3_stmt* prepared_statement)
    : db(database), handle(prepared_statement), parameters(sqlite3_bind_parameter_count(prepared_statement)) {
  std::vector<int> place(static_cast<std::size_t>(parameters) + 1);
  bool is_numbered = parameters > 0, in_order = true;
  for (int i = 1; i <= parameters; ++i) {
    const int n = number_of(sqlite3_bind_parameter_name(handle, i));
    is_numbered = is_numbered && n >= 1 && n <= parameters;
    if (!is_numbered) return;  // ?, ?1, :name: as SQLite counts them
    place[static_cast<std::size_t>(n)] = i;
    in_order = in_order && n == i;
  }
  if (!in_order) positions = std::move(place);
}

prepared::entry::~entry() { sqlite3_finalize(handle); }

prepared::~prepared() {
  if (entry_ == nullptr) return;
  if (!entry_->is_cached) {
    delete entry_;
    return;
  }
  sqlite3_reset(entry_->handle);
  sqlite3_clear_bindings(entry_->handle);
  entry_->in_use = false;
}

namespace {

int place_of(const prepared::entry& e, int parameter) noexcept {
  const bool is_mapped = !e.positions.empty() && parameter >= 1 && parameter <= e.parameters;
  return is_mapped ? e.positions[static_cast<std::size_t>(parameter)] : parameter;
}

void require_bound(const prepared::entry& e, int result) {
  if (result != SQLITE_OK) raise(e.db, result, std::string("binding a parameter of '") + sqlite3_sql(e.handle) + "'");
}

}  // namespace

void prepared::bind_null(int parameter) {
  require_bound(*entry_, sqlite3_bind_null(entry_->handle, place_of(*entry_, parameter)));
}
void prepared::bind_integer(int parameter, std::int64_t integer) {
  require_bound(*entry_, sqlite3_bind_int64(entry_->handle, place_of(*entry_, parameter), integer));
}
void prepared::bind_real(int parameter, double real) {
  require_bound(*entry_, sqlite3_bind_double(entry_->handle, place_of(*entry_, parameter), real));
}
void prepared::bind_text(int parameter, std::string_view text) {
  // Never a null pointer, which would bind NULL.
  const char* data = text.data() != nullptr ? text.data() : "";
  require_bound(*entry_, sqlite3_bind_text64(entry_->handle, place_of(*entry_, parameter), data, text.size(),
                                             SQLITE_STATIC, SQLITE_UTF8));
}
void prepared::bind_bytes(int parameter, std::span<const std::byte> bytes) {
  const void* data = bytes.data() != nullptr ? static_cast<const void*>(bytes.data()) : "";
  require_bound(*entry_,
                sqlite3_bind_blob64(entry_->handle, place_of(*entry_, parameter), data, bytes.size(), SQLITE_STATIC));
}
void prepared::bind_value(int parameter, const value& any) {
  if (const auto* integer = any.get_if<std::int64_t>()) return bind_integer(parameter, *integer);
  if (const auto* real = any.get_if<double>()) return bind_real(parameter, *real);
  if (const auto* text = any.get_if<std::string>()) return bind_text(parameter, *text);
  if (const auto* bytes = any.get_if<blob>()) return bind_bytes(parameter, *bytes);
  bind_null(parameter);
}

prepared& prepared::bind_reader(int parameter, row_reader& reader) {
  require_bound(*entry_,
                sqlite3_bind_pointer(entry_->handle, place_of(*entry_, parameter), &reader, reader_type, nullptr));
  return *this;
}

prepared& prepared::bind_all(const statement& s) {
  if (s.parameters().size() != static_cast<std::size_t>(entry_->parameters)) {
    throw storage_error(errc::invalid_statement, "'" + s.sql() + "' has " + std::to_string(entry_->parameters) +
                                                     " parameters, but " + std::to_string(s.parameters().size()) +
                                                     " values were given");
  }
  int n = 0;
  for (const value& parameter : s.parameters()) bind_value(++n, parameter);
  return *this;
}

bool prepared::step() {
  const int result = sqlite3_step(entry_->handle);
  if (result == SQLITE_ROW) return true;
  if (result == SQLITE_DONE) return false;
  raise(entry_->db, result, std::string("'") + sqlite3_sql(entry_->handle) + "'");
}
void prepared::reset() noexcept { sqlite3_reset(entry_->handle); }
void prepared::execute() {
  while (step()) {
  }
  reset();
}

bool prepared::is_null(int column) const noexcept { return sqlite3_column_type(entry_->handle, column) == SQLITE_NULL; }
std::int64_t prepared::integer(int column) const noexcept { return sqlite3_column_int64(entry_->handle, column); }
double prepared::real(int column) const noexcept { return sqlite3_column_double(entry_->handle, column); }
// A value may be asked without a lock, since the connection has none.
std::string_view prepared::text(int column) const noexcept {
  return text_of(sqlite3_column_value(entry_->handle, column));
}
std::span<const std::byte> prepared::bytes(int column) const noexcept {
  return bytes_of(sqlite3_column_value(entry_->handle, column));
}
value prepared::cell(int column) const {
  switch (sqlite3_column_type(entry_->handle, column)) {
    case SQLITE_INTEGER:
      return integer(column);
    case SQLITE_FLOAT:
      return real(column);
    case SQLITE_TEXT:
      return text(column);
    case SQLITE_BLOB: {
      const auto found = bytes(column);
      return blob(found.begin(), found.end());
    }
    default:
      return {};
  }
}

std::int64_t cells::integer(int column) const noexcept { return sqlite3_value_int64(values_[column]); }
std::string_view cells::text(int column) const noexcept { return text_of(values_[column]); }
std::span<const std::byte> cells::bytes(int column) const noexcept { return bytes_of(values_[column]); }

rows prepared::fetch(std::size_t limit) {
  const int count = sqlite3_column_count(entry_->handle);
  std::vector<std::string> columns;
  columns.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) columns.emplace_back(sqlite3_column_name(entry_->handle, i));
  rows found(std::move(columns));
  for (std::size_t n = 0; n < limit && step(); ++n) {
    for (int i = 0; i < count; ++i) found.add_cell(cell(i));
  }
  return found;
}

rows connection::run(const statement& s) {
  prepared p = prepare(s.sql());
  return run(p, s);
}
rows connection::run(prepared& p, const statement& s) {
  p.bind_all(s);
  rows found = p.fetch();
  if (found.columns().empty() || !p.is_read_only()) found.set_affected(changed());
  return found;
}

bool prepared::controls_transaction() const noexcept { return entry_->controls_transaction; }
bool prepared::is_read_only() const noexcept { return sqlite3_stmt_readonly(entry_->handle) != 0; }

owned_connection::owned_connection(const location& where, access mode, std::int64_t busy_milliseconds)
    : name_(where.path.empty() ? ":memory:" : where.path) {
  const int flags = mode == access::read ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  const int create = mode == access::create ? SQLITE_OPEN_CREATE : 0;
  // NOMUTEX: one thread at a time uses it, SQLite's own locks would be waste.
  const int opened = sqlite3_open_v2(name_.c_str(), &db_, flags | create | SQLITE_OPEN_NOMUTEX,
                                     where.vfs.empty() ? nullptr : where.vfs.c_str());
  try {
    if (opened != SQLITE_OK) raise(db_, opened, "cannot open '" + name_ + "'");
    sqlite3_extended_result_codes(db_, 1);
    sqlite3_busy_timeout(db_, static_cast<int>(busy_milliseconds));
    const int made = sqlite3_create_function_v2(db_, "cofferdam_row", -1, SQLITE_UTF8 | SQLITE_DIRECTONLY, nullptr,
                                                &give_row, nullptr, nullptr, nullptr);
    if (made != SQLITE_OK) raise(db_, made, "cannot open '" + name_ + "'");
    sqlite3_set_authorizer(db_, &note_control, &controls_transaction_);
    if (mode != access::read) {
      execute("pragma journal_mode = wal");
      execute("pragma synchronous = full");
      execute("pragma foreign_keys = on");
      // Checkpoints are made between commits, when nobody waits for them.
      execute("pragma wal_autocheckpoint = 0");
    } else {
      execute("pragma query_only = on");
    }
    execute(("pragma cache_size = -" + std::to_string(where.cached_bytes / 1024)).c_str());
  } catch (...) {
    sqlite3_close_v2(db_);
    throw;
  }
}

owned_connection::~owned_connection() {
  cache_.clear();
  sqlite3_close_v2(db_);
}

prepared owned_connection::prepare(std::string_view sql) {
  constexpr std::size_t max_cached = 256;
  const auto cached = cache_.find(sql);
  if (cached != cache_.end() && !cached->second->in_use) {
    cached->second->in_use = true;
    return prepared(*cached->second);
  }
  ::sqlite3_stmt* handle = nullptr;
  const char* rest = nullptr;
  controls_transaction_ = false;
  const int result =
      sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, &handle, &rest);
  if (result != SQLITE_OK) raise(db_, result, "'" + std::string(sql) + "'");
  auto made = std::make_unique<prepared::entry>(db_, handle);
  const std::string_view left(rest, static_cast<std::size_t>(sql.data() + sql.size() - rest));
  if (handle == nullptr || left.find_first_not_of(" \t\r\n;") != std::string_view::npos) {
    throw storage_error(errc::invalid_statement, "'" + std::string(sql) + "' is not one SQL statement");
  }
  made->controls_transaction = controls_transaction_;
  made->in_use = true;
  if (cached != cache_.end()) return prepared(*made.release());  // the same text is in use further out
  if (cache_.size() >= max_cached) std::erase_if(cache_, [](const auto& entry) { return !entry.second->in_use; });
  made->is_cached = true;
  return prepared(*cache_.emplace(std::string(sql), std::move(made)).first->second);
}

prepared owned_connection::prepare_statement(std::string_view sql) {
  prepared p = prepare(sql);
  if (p.controls_transaction()) {
    throw storage_error(errc::invalid_statement, "'" + std::string(sql) +
                                                     "' begins, divides or ends a transaction; a batch is one, and a "
                                                     "query needs none");
  }
  return p;
}

prepared owned_connection::prepare_query(std::string_view sql) {
  prepared p = prepare_statement(sql);
  if (!p.is_read_only()) {
    throw storage_error(errc::invalid_statement, "'" + std::string(sql) + "' writes; writes belong into a batch");
  }
  return p;
}

void owned_connection::execute(const char* sql) {
  const int result = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  if (result != SQLITE_OK) raise(db_, result, "'" + std::string(sql) + "' on '" + name_ + "'");
}

std::int64_t owned_connection::last_insert_id() const noexcept { return sqlite3_last_insert_rowid(db_); }
std::size_t owned_connection::changed() const noexcept { return static_cast<std::size_t>(sqlite3_changes64(db_)); }
int owned_connection::all_changes() const noexcept { return sqlite3_total_changes(db_); }
bool owned_connection::in_transaction() const noexcept { return sqlite3_get_autocommit(db_) == 0; }

owned_connection::interruptible::interruptible(owned_connection& connection, const std::atomic<bool>& flag) noexcept
    : connection_(connection) {
  constexpr int steps = 1'000;  // of SQLite's machine, between two looks at the flag: some microseconds
  const auto look = [](void* which) {
    return static_cast<const std::atomic<bool>*>(which)->load(std::memory_order_relaxed) ? 1 : 0;
  };
  sqlite3_progress_handler(connection_.db_, steps, look, const_cast<std::atomic<bool>*>(&flag));
}
owned_connection::interruptible::interruptible(owned_connection& connection, const timer_service& timers,
                                               time_point until) noexcept
    : connection_(connection), timers_(&timers), until_(until) {
  constexpr int steps = 200;  // some rows: each may have to be read from the disk
  const auto look = [](void* which) {
    const auto& self = *static_cast<const interruptible*>(which);
    return self.timers_->now() > self.until_ ? 1 : 0;
  };
  sqlite3_progress_handler(connection_.db_, steps, look, this);
}
owned_connection::interruptible::~interruptible() { sqlite3_progress_handler(connection_.db_, 0, nullptr, nullptr); }

}  // namespace cofferdam::inline COFFERDAM_ABI::sqlite
