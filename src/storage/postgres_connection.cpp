#if defined(COFFERDAM_HAS_POSTGRES)
#include "postgres_connection.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::postgres {
namespace {

constexpr std::size_t max_prepared = 256, max_seen = 1'000;
constexpr const char* condition_mark = "cofferdam_condition_does_not_hold";

struct clear_result {
  void operator()(PGresult* r) const noexcept { PQclear(r); }
};
using result_pointer = std::unique_ptr<PGresult, clear_result>;

std::string field(const PGresult* result, int code) {
  const char* text = PQresultErrorField(result, code);
  return text == nullptr ? std::string() : std::string(text);
}

std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

/// At least 1, since 0 would be none at all.
std::int64_t milliseconds_of(duration d) noexcept {
  return std::clamp<std::int64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(d).count(), 1,
                                  std::numeric_limits<std::int32_t>::max());
}

complaint complaint_of(const PGresult* result) {
  complaint what;
  what.state = field(result, PG_DIAG_SQLSTATE);
  what.message = field(result, PG_DIAG_MESSAGE_PRIMARY);
  if (what.message.empty()) what.message = one_line(PQresultErrorMessage(result));
  what.detail = field(result, PG_DIAG_MESSAGE_DETAIL);
  what.constraint = field(result, PG_DIAG_CONSTRAINT_NAME);
  what.is_stale_plan = what.state == "0A000" && field(result, PG_DIAG_SOURCE_FUNCTION) == "RevalidateCachedQuery";
  return what;
}

errc code_of(const complaint& what) noexcept {
  const std::string_view state = what.state;
  const auto is = [&](std::string_view prefix) { return state.starts_with(prefix); };
  if (what.is_stale_plan) return errc::database_busy;
  if (is("23")) return errc::constraint_violated;
  if (is("40001") || is("40P01") || is("55P03") || is("57014")) return errc::database_busy;
  if (is("08P01")) return errc::invalid_statement;  // a wrong number of parameters
  if (state.empty() || is("08") || is("57P") || is("53300") || is("28") || is("3D")) return errc::database_unavailable;
  if (is("53")) return is("53100") ? errc::database_full : errc::database_overloaded;
  if (is("58")) return errc::database_io_error;
  if (is("XX001") || is("XX002")) return errc::database_corrupt;
  return errc::invalid_statement;
}

value cell_of(const PGresult* result, int row, int column) {
  if (PQgetisnull(result, row, column) != 0) return {};
  const char* text = PQgetvalue(result, row, column);
  const std::string_view view(text, static_cast<std::size_t>(PQgetlength(result, row, column)));
  switch (PQftype(result, column)) {
    case 16:  // boolean
      return view == "t";
    case 20:  // bigint, smallint, integer, oid
    case 21:
    case 23:
    case 26: {
      std::int64_t integer = 0;
      std::from_chars(view.data(), view.data() + view.size(), integer);
      return integer;
    }
    case 700:  // real, double precision; strtod knows NaN and Infinity too
    case 701:
      return std::strtod(text, nullptr);
    case 17: {  // bytea
      std::size_t size = 0;
      unsigned char* bytes = PQunescapeBytea(reinterpret_cast<const unsigned char*>(text), &size);
      if (bytes == nullptr) throw std::bad_alloc();
      const auto* first = reinterpret_cast<const std::byte*>(bytes);
      blob made(first, first + size);
      PQfreemem(bytes);
      return made;
    }
    default:
      return std::string(view);
  }
}

rows rows_of(const PGresult* result) {
  const int columns = PQnfields(result), count = PQntuples(result);
  std::vector<std::string> names;
  names.reserve(static_cast<std::size_t>(columns));
  for (int i = 0; i < columns; ++i) names.emplace_back(PQfname(result, i));
  rows found(std::move(names));
  for (int r = 0; r < count; ++r) {
    for (int c = 0; c < columns; ++c) found.add_cell(cell_of(result, r, c));
  }
  const std::string_view tag = PQcmdStatus(const_cast<PGresult*>(result));
  if (!tag.starts_with("SELECT") && !tag.starts_with("FETCH")) {
    found.set_affected(std::strtoull(PQcmdTuples(const_cast<PGresult*>(result)), nullptr, 10));
  }
  return found;
}

/// Parameters as libpq wants them: text, but bytes as they are. Their types are the server's to infer.
struct sent_parameters {
  explicit sent_parameters(const statement* from) {
    if (from == nullptr) return;
    texts.reserve(from->parameters().size());  // pointers into it must stay
    for (const auto& parameter : from->parameters()) add(parameter, from->sql());
  }

  void add(const value& parameter, const std::string& sql) {
    if (const auto* text = parameter.get_if<std::string>()) {
      if (text->find('\0') != std::string::npos) {
        throw storage_error(errc::invalid_statement, "PostgreSQL stores no text with a zero byte; in: " + sql);
      }
      push(text->c_str(), text->size(), 0);
    } else if (const auto* bytes = parameter.get_if<blob>()) {
      push(bytes->empty() ? "" : reinterpret_cast<const char*>(bytes->data()), bytes->size(), 1);
    } else if (const auto* integer = parameter.get_if<std::int64_t>()) {
      texts.push_back(std::to_string(*integer));
      push(texts.back().c_str(), texts.back().size(), 0);
    } else if (const auto* real = parameter.get_if<double>()) {
      char digits[32];
      const auto end = std::to_chars(std::begin(digits), std::end(digits), *real).ptr;
      texts.emplace_back(std::begin(digits), end);
      push(texts.back().c_str(), texts.back().size(), 0);
    } else {
      push(nullptr, 0, 0);
    }
  }
  void push(const char* data, std::size_t size, int format) {
    if (size > 1'000'000'000) throw storage_error(errc::invalid_statement, "a parameter is larger than 1 GB");
    values.push_back(data);
    sizes.push_back(static_cast<int>(size));
    formats.push_back(format);
  }
  [[nodiscard]] int count() const noexcept { return static_cast<int>(values.size()); }

  std::vector<std::string> texts;
  std::vector<const char*> values;
  std::vector<int> sizes, formats;
};

}  // namespace

storage_error to_error(const complaint& what, const std::string& sql) {
  std::string message = what.message;
  if (!what.detail.empty()) message += " (" + what.detail + ")";
  if (!sql.empty()) message += "; in: " + sql.substr(0, 300);
  return {code_of(what), std::move(message), what.state};
}

namespace {
std::string without_end(std::string sql) {
  while (!sql.empty() && (sql.back() == ';' || sql.back() == ' ' || sql.back() == '\n')) sql.pop_back();
  return sql;
}
}  // namespace

std::string condition_sql(const std::string& query) {
  // set_config is volatile, so it is evaluated only now, and no parameter without a dot can be made up.
  return "select case when coalesce((select held::text from (" + without_end(query) +
         "\n) as cofferdam_condition(held) limit 1), '0') in ('0', 'f', 'false') then set_config('" + condition_mark +
         "', '', true) end";
}

std::string changing_condition_sql(const std::string& change) {
  return "with cofferdam_change as (" + without_end(change) + "\nreturning 1) " +
         condition_sql("select count(*) > 0 from cofferdam_change");
}

bool is_condition(const complaint& what) noexcept { return what.message.find(condition_mark) != std::string::npos; }

void connection_group::abandon_silent(time_point now) noexcept {
  // The server itself ends what takes too long; a little later it is the server that does not answer.
  const auto latest = now - options.statement_limit - options.statement_limit / 4;
  for (auto* each : all) {
    if (each->waits_since() < latest) each->abandon();
  }
}

connection::connection(net::any_io_executor executor, connection_group& group)
    : executor_(executor), group_(group), timers_(timers_of(executor)), socket_(executor) {
  group_.all.push_back(this);
}
connection::~connection() {
  close();
  std::erase(group_.all, this);
}

void connection::close() noexcept {
  net::asio_error_code ignored;
  socket_.close(ignored);
  if (std::exchange(is_open_, false)) group_.open.fetch_sub(1, std::memory_order_relaxed);
  if (connection_ != nullptr) PQfinish(std::exchange(connection_, nullptr));
  prepared_.clear();
}

/// Ends the waits of a connection that are still on when it is over.
class connection::time_limit {
 public:
  time_limit(connection& of, duration limit)
      : state_(std::make_shared<state>(&of, net::steady_timer(of.executor_, limit))) {
    const auto expire = [s = state_](const net::asio_error_code& why) {
      if (why || s->of == nullptr) return;  // it may come when we are gone
      s->is_over = true;
      s->of->end_waits();
    };
    state_->timer.async_wait(expire);
  }
  time_limit(const time_limit&) = delete;
  time_limit& operator=(const time_limit&) = delete;
  ~time_limit() {
    state_->of = nullptr;
    state_->timer.cancel();
  }
  [[nodiscard]] bool is_over() const noexcept { return state_->is_over; }

 private:
  struct state {
    state(connection* c, net::steady_timer t) noexcept : of(c), timer(std::move(t)) {}
    connection* of;
    net::steady_timer timer;
    bool is_over = false;
  };
  std::shared_ptr<state> state_;
};

void connection::end_waits() noexcept {
  net::asio_error_code ignored;
  if (socket_.is_open()) socket_.cancel(ignored);
}

void connection::abandon() noexcept {
  is_abandoned_ = true;
  end_waits();
}

/// libpq may change its socket while it connects: several hosts, TLS or not. Waits are for a duplicate, since libpq
/// closes its own when the connection breaks: its number may by then be another connection's, whose waits would be
/// taken back with ours.
void connection::follow_socket() {
  net::asio_error_code ignored;
  socket_.close(ignored);
  const int own = PQsocket(connection_);
  if (own < 0) return;
  const int duplicate = ::fcntl(own, F_DUPFD_CLOEXEC, 0);
  if (duplicate < 0) {
    throw storage_error(errc::database_unavailable,
                        "no file descriptor is left: " + std::generic_category().message(errno));
  }
  socket_.assign(duplicate);
}

complaint connection::last_complaint() const {
  complaint why;
  why.message = one_line(PQerrorMessage(connection_));
  return why;
}

awaitable<bool> connection::wait(bool to_read, bool to_write) {
  if (is_abandoned_) co_return false;
  if (to_read != to_write) {
    const auto direction = to_read ? net::posix::descriptor_base::wait_read : net::posix::descriptor_base::wait_write;
    const auto [why] = co_await socket_.async_wait(direction, net::as_tuple(net::use_awaitable));
    co_return !why && !is_abandoned_;
  }
  // Whichever comes first; the other is told to go, and must not touch our frame.
  const auto either = std::make_shared<net::steady_timer>(executor_, net::steady_timer::time_point::max());
  const auto ready = [either](const net::asio_error_code&) { either->cancel(); };
  socket_.async_wait(net::posix::descriptor_base::wait_read, ready);
  socket_.async_wait(net::posix::descriptor_base::wait_write, ready);
  co_await either->async_wait(net::as_tuple(net::use_awaitable));
  if (socket_.is_open()) socket_.cancel();
  co_return !is_abandoned_;
}

awaitable<void> connection::ensure_open(bool is_read_only) {
  if (is_alive()) co_return;
  if (is_open_) group_.lost.fetch_add(1, std::memory_order_relaxed);
  close();
  is_abandoned_ = false;
  connection_ = PQconnectStart(group_.url.c_str());
  if (connection_ == nullptr) throw std::bad_alloc();
  const time_limit limited(*this, group_.options.connect_timeout);
  bool is_open = PQstatus(connection_) != CONNECTION_BAD;
  for (auto state = PGRES_POLLING_WRITING; is_open && state != PGRES_POLLING_OK;) {
    follow_socket();
    is_open = co_await wait(state == PGRES_POLLING_READING, state != PGRES_POLLING_READING);
    if (is_open) state = PQconnectPoll(connection_);
    if (state == PGRES_POLLING_FAILED) is_open = false;
  }
  complaint why = last_complaint();
  if (is_open) {
    follow_socket();
    PQsetnonblocking(connection_, 1);
    PQsetNoticeProcessor(connection_, [](void*, const char*) {}, nullptr);
    PQenterPipelineMode(connection_);
    std::vector<unit> settings(1);
    // Where locks decide, each statement must see what was committed while the one before it waited.
    settings[0].steps.push_back({std::string("select set_config('client_encoding', 'UTF8', false), "
                                             "set_config('default_transaction_isolation', 'read committed', false), "
                                             "set_config('default_transaction_read_only', '") +
                                 (is_read_only ? "on" : "off") + "', false), set_config('statement_timeout', '" +
                                 std::to_string(milliseconds_of(group_.options.statement_limit)) + "', false)"});
    co_await run(settings);
    is_open = settings[0].is_complete && !settings[0].refusal;
    if (settings[0].refusal) why = *settings[0].refusal;
  }
  if (limited.is_over()) why.message = "no answer within the time to connect";
  if (is_open && !limited.is_over()) {
    is_open_ = true;
    group_.open.fetch_add(1, std::memory_order_relaxed);
    group_.connects.fetch_add(1, std::memory_order_relaxed);
    co_return;
  }
  close();
  group_.failed_connects.fetch_add(1, std::memory_order_relaxed);
  if (why.message.empty()) why.message = "the connection broke while it was made";
  throw storage_error(errc::database_unavailable, why.message, why.state);
}

bool connection::is_alive() {
  if (connection_ == nullptr || is_abandoned_) return false;
  // The first look takes the server's farewell, if there is one; the second finds the end behind it.
  for (int look = 0; look < 2; ++look) {
    if (PQconsumeInput(connection_) == 0 || PQstatus(connection_) != CONNECTION_OK) return false;
    if (PQisBusy(connection_) == 0 && PQtransactionStatus(connection_) == PQTRANS_UNKNOWN) return false;
  }
  return true;
}

bool connection::in_transaction() const noexcept {
  return connection_ != nullptr && PQtransactionStatus(connection_) != PQTRANS_IDLE;
}

std::shared_ptr<PGcancel> connection::canceller() const {
  if (connection_ == nullptr) return nullptr;
  return {PQgetCancel(connection_), &PQfreeCancel};
}

bool connection::send(const unit::step& s, std::vector<expected>& all, std::size_t unit_index, std::size_t step_index) {
  const sent_parameters p(s.parameters);
  const auto found = prepared_.find(s.sql);
  std::string name = found == prepared_.end() ? "" : found->second;
  if (name.empty() && seen_.contains(s.sql) && prepared_.size() < max_prepared) {
    name = "s" + std::to_string(++names_);
    if (PQsendPrepare(connection_, name.c_str(), s.sql.c_str(), 0, nullptr) == 0) return false;
    prepared_.emplace(s.sql, name);
    all.push_back({unit_index, step_index, true});
  }
  all.push_back({unit_index, step_index, false});
  if (!name.empty()) {
    return PQsendQueryPrepared(connection_, name.c_str(), p.count(), p.values.data(), p.sizes.data(), p.formats.data(),
                               0) != 0;
  }
  if (seen_.size() >= max_seen) seen_.clear();
  seen_.insert(s.sql);
  return PQsendQueryParams(connection_, s.sql.c_str(), p.count(), nullptr, p.values.data(), p.sizes.data(),
                           p.formats.data(), 0) != 0;
}

awaitable<void> connection::run(std::vector<unit>& units) {
  for (const auto& u : units) {
    for (const auto& s : u.steps) const sent_parameters can_be_sent(s.parameters);
  }
  std::vector<expected> all;
  bool is_fine = connection_ != nullptr;
  for (std::size_t u = 0; is_fine && u < units.size(); ++u) {
    for (std::size_t s = 0; is_fine && s < units[u].steps.size(); ++s) is_fine = send(units[u].steps[s], all, u, s);
    is_fine = is_fine && PQpipelineSync(connection_) != 0;
  }
  group_.busy.fetch_add(1, std::memory_order_relaxed);
  waits_since_ = timers_.now();
  if (is_fine) is_fine = co_await flush();
  if (is_fine) is_fine = co_await read_answers(units, all);
  waits_since_ = never;
  group_.busy.fetch_sub(1, std::memory_order_relaxed);
  if (is_fine) co_return;
  if (is_open_) group_.lost.fetch_add(1, std::memory_order_relaxed);
  close();
}

/// Reads while it writes, or both sides could wait for the other to read.
awaitable<bool> connection::flush() {
  for (;;) {
    const int left = PQflush(connection_);
    if (left <= 0) co_return left == 0;
    const bool is_ready = co_await wait(true, true);
    if (!is_ready || PQconsumeInput(connection_) == 0) co_return false;
  }
}

awaitable<bool> connection::read_answers(std::vector<unit>& units, const std::vector<expected>& all) {
  std::size_t at = 0;
  bool is_behind = false;
  for (std::size_t u = 0; u < units.size();) {
    while (PQisBusy(connection_) != 0) {
      const bool is_ready = co_await wait(true, false);
      // A farewell may lie in the buffer though the socket is closed: read on as long as there are answers.
      if (!is_ready) co_return false;
      if (PQconsumeInput(connection_) == 0 && PQisBusy(connection_) != 0) co_return false;
      waits_since_ = timers_.now();
    }
    const result_pointer result(PQgetResult(connection_));
    if (!result) {
      if (PQstatus(connection_) == CONNECTION_BAD) co_return false;
      if (!std::exchange(is_behind, false)) ++at;  // nothing more of this statement
      continue;
    }
    if (PQresultStatus(result.get()) == PGRES_PIPELINE_SYNC) {
      units[u++].is_complete = true;
      continue;
    }
    if (at >= all.size() || all[at].unit != u) {
      // Behind a unit's answers: a farewell, or against its commit. Those behind it are answered all the same.
      complaint why = complaint_of(result.get());
      if (why.state.empty()) co_return false;  // said by libpq, not by the server
      units[u].refusal = std::move(why);
      is_behind = true;
      continue;
    }
    if (!take_answer(result.get(), units[u], all[at])) co_return false;
  }
  co_return true;
}

/// False: the connection is lost.
bool connection::take_answer(PGresult* result, unit& of, const expected& what) {
  auto& step = of.steps[what.step];
  switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
      if (what.is_prepare) return true;
      step.found = rows_of(result);
      ++of.answered;
      return true;
    case PGRES_PIPELINE_ABORTED:
      if (what.is_prepare) prepared_.erase(step.sql);
      return true;
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
      of.refusal = complaint{"0A000", "COPY cannot be part of a batch or query", {}, {}};
      return false;
    default:
      complaint why = complaint_of(result);
      if (why.state.empty()) return false;  // said by libpq, not by the server
      if (what.is_prepare) prepared_.erase(step.sql);
      const bool is_stale = why.is_stale_plan;
      of.refusal = std::move(why);
      return !is_stale;  // its prepared statements are worth nothing more
  }
}

awaitable<bool> connection::wait_for_notification(duration limit) {
  {
    const time_limit limited(*this, limit);
    const auto [ended] =
        co_await socket_.async_wait(net::posix::descriptor_base::wait_read, net::as_tuple(net::use_awaitable));
    if (!limited.is_over() && (ended || PQconsumeInput(connection_) == 0)) close();
  }
  bool is_heard = false;
  while (connection_ != nullptr) {
    PGnotify* note = PQnotifies(connection_);
    if (note == nullptr) break;
    is_heard = true;
    PQfreemem(note);
  }
  co_return is_heard;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::postgres
#endif
