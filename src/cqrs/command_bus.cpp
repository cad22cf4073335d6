#include <cofferdam/cqrs/command_bus.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <algorithm>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

std::string list_of(const violations& found) {
  std::string text;
  for (const auto& [field, what] : found.all()) text += (text.empty() ? "" : "; ") + field + " " + what;
  return text;
}

}  // namespace

namespace detail {
/// What makes a command the same one.
struct command_identity {
  std::string command, tenant, key;
  std::int64_t digest = 0;
  std::int64_t microseconds = 0;  // date
};
}  // namespace detail

command_invalid_error::command_invalid_error(const std::string& command, violations found)
    : error(errc::command_invalid, nullptr),
      found_(std::move(found)),
      message_("'" + command + "' is not valid: " + list_of(found_)) {}

awaitable<receipt> command_context::commit_once(database& db, batch b, std::string result) {
  const auto same = identity_;
  b.lock("command/" + same->tenant + "/" + same->command + "/" + same->key);
  b.require("'" + same->command + "' with the key '" + same->key + "' has not happened yet",
            "select not exists(select 1 from cofferdam_commands where tenant = $1 and command = $2 and key = $3)",
            same->tenant, same->command, same->key);
  b.execute(
      "insert into cofferdam_commands(tenant, command, key, digest, result, used_at) values($1, $2, $3, $4, $5, $6)",
      same->tenant, same->command, same->key, same->digest, std::move(result), same->microseconds);
  co_return co_await db.commit(std::move(b));
}

command_bus::command_bus() = default;
command_bus::~command_bus() = default;

// ------------------------------------------------------------------------------------------------------------ set-up

command_bus::entry& command_bus::at(std::size_t slot) {
  if (slot >= entries_.size()) entries_.resize(slot + 1);
  if (!entries_[slot]) entries_[slot] = std::make_unique<entry>();
  return *entries_[slot];
}

void command_bus::set_handler(std::size_t slot, const std::string& name, std::unique_ptr<detail::any_handler> handler) {
  entry& to = at(slot);
  to.name = name;
  if (to.handler) problems_.push_back("'" + name + "' has more than one handler");
  to.handler = std::move(handler);
}

void command_bus::expect(std::size_t slot, const std::string& name) {
  at(slot).name = name;
  expected_.push_back(slot);
}

command_bus& command_bus::authorise(std::function<bool(const std::string&, const command_context&)> rule) {
  authorise_ = std::move(rule);
  is_plain_ = false;
  return *this;
}

command_bus& command_bus::use(pipeline policies) {
  policies_ = std::move(policies);
  is_plain_ = false;
  return *this;
}

awaitable<void> command_bus::once(database& db) {
  const std::string end = db.has_one_writer() ? "key)) without rowid" : "key))";
  const std::string integer = db.has_one_writer() ? "integer" : "bigint";
  std::vector<migration> history;
  history.push_back({1,
                     "commands",
                     {"create table cofferdam_commands(tenant text not null, command text not null, key text not null, "
                      "digest " +
                          integer + " not null, result text not null, used_at " + integer +
                          " not null, primary key(tenant, command, " + end,
                      "create index cofferdam_commands_by_age on cofferdam_commands(used_at)"}});
  co_await db.migrate("commands", std::move(history));
  database_ = &db;
}

void command_bus::build() {
  for (std::size_t slot = 0; slot < entries_.size(); ++slot) {
    const auto& to = entries_[slot];
    if (!to || to->handler) continue;
    const bool is_expected = std::ranges::find(expected_, slot) != expected_.end();
    problems_.push_back(is_expected ? "'" + to->name + "' has no handler"
                                    : "a validation is for a command without handler");
  }
  std::string all;
  for (const auto& problem : problems_) all += (all.empty() ? "" : "\n") + problem;
  if (!all.empty()) throw invalid_options_error(all);
}

// ----------------------------------------------------------------------------------------------------------- sending

command_bus::entry& command_bus::find(std::size_t slot, const std::string& name) {
  if (slot < entries_.size() && entries_[slot] && entries_[slot]->handler) [[likely]]
    return *entries_[slot];
  throw std::logic_error("nobody handles '" + name + "': call handle<" + name + ">() first, and expect<" + name +
                         ">() to hear of it when the bus is built");
}

failure command_bus::refusal(const entry& to, const void* c, const command_context& context) const {
  if (authorise_ && !authorise_(to.name, context)) {
    return failure::refused(errc::command_forbidden, std::make_shared<const std::string>(to.name));
  }
  violations found;
  for (const auto& rule : to.rules) rule(c, found);
  if (found.all().empty()) return {};
  return failure::thrown(std::make_exception_ptr(command_invalid_error(to.name, std::move(found))));
}

void command_bus::publish(command_event::kind what, const entry& about, const failure& why) {
  if (events_.has_listeners()) events_.publish({what, about.name, why});
}

std::string command_bus::describe() const {
  std::string text;
  if (authorise_) text += "authorisation\n";
  text += "validation\n";
  if (database_ != nullptr) text += "once, by idempotency key, in '" + database_->name() + "'\n";
  if (policies_) text += policies_->describe() + "\n";
  return text + "handler";
}

// -------------------------------------------------------------------------------------------------------------- once

void command_bus::identify(const entry& to, const std::string& content, std::chrono::system_clock::time_point now,
                           command_context& context) {
  auto identity = std::make_shared<detail::command_identity>();
  identity->command = to.name;
  identity->tenant = context.tenant();
  identity->key = context.idempotency_key();
  identity->digest = detail::hash_of(content);
  identity->microseconds = detail::to_microseconds(now);
  context.identity_ = std::move(identity);
}

awaitable<outcome<command_bus::repeated_result>> command_bus::find_repeated(const command_context& context) {
  const auto& same = *context.identity_;
  failure why;
  try {
    const rows found = co_await database_->query(
        "select digest, result from cofferdam_commands where tenant = $1 and command = $2 and key = $3", same.tenant,
        same.command, same.key);
    repeated_result known;
    if (found.empty()) co_return known;
    if (found.front().get<std::int64_t>(0) != same.digest) {
      co_return failure::thrown(std::make_exception_ptr(
          storage_error(errc::command_key_reused, "'" + same.key + "' was used for another '" + same.command + "'")));
    }
    known.is_known = true;
    known.result = found.front().get<std::string>(1);
    co_return known;
  } catch (const std::exception& e) {
    why = failure::current(e);
  }
  co_return why;
}

awaitable<std::size_t> command_bus::forget_before(std::chrono::system_clock::time_point date) {
  if (database_ == nullptr) throw std::logic_error("nothing to forget: once() was not called");
  batch b;
  b.execute("delete from cofferdam_commands where used_at < $1", detail::to_microseconds(date));
  const receipt done = co_await database_->commit(std::move(b));
  co_return done[0].affected();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
