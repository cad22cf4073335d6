// Ten students, a course with three places, and a rule over two kinds of streams: a condition over all events decides,
// so the course is never overbooked. In memory; with the URL of a file or of a PostgreSQL database as its argument,
// there.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/resilience/bulkhead.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

using namespace cofferdam;

namespace {

constexpr std::size_t places = 3;

/// Everything that the decision depends on.
event_query enrolments_of(const std::string& course) {
  event_query q;
  q.item().type("student.enrolled").tag("course:" + course);
  return q;
}

awaitable<std::string> enrol(event_store& store, std::string student, std::string course) {
  for (;;) {
    const slice seen = co_await store.read_all(enrolments_of(course));
    if (seen.events.size() >= places) co_return "full";
    event enrolled("student.enrolled", "{}");
    enrolled.tag("course:" + course).tag(student);
    append_request request(student, expected::any());
    // Unless somebody enrolled since we looked.
    request.add(std::move(enrolled)).unless(enrolments_of(course), seen.scanned_to);
    const auto done = co_await store.try_append(std::move(request));
    if (done) co_return "enrolled";
    if (done.code() != errc::append_condition_failed) done.why().raise();
  }
}

awaitable<void> course(std::string url) {
  database db = co_await database::open(std::move(url));
  event_store store = co_await event_store::open(db);
  std::vector<std::string> students;
  for (int i = 1; i <= 10; ++i) students.push_back("student-" + std::to_string(i));
  const auto enrol_one = [&](std::string student) { return enrol(store, std::move(student), "sailing"); };
  bulkhead desks{"desks", {.max_concurrent = 10}};
  const auto answers = co_await desks.map(students, enrol_one);
  const slice all = co_await store.read_all(enrolments_of("sailing"));
  std::printf("%td enrolled, %td came too late, %zu events\n", std::ranges::count(answers, "enrolled"),
              std::ranges::count(answers, "full"), all.events.size());
}

}  // namespace

int main(int argc, char** argv) {
  net::io_context context(1);
  if (argc > 1) {
    spawn(context, course, std::string(argv[1]));
    context.run();
    return 0;
  }
  virtual_time time(context);
  time.run(course, std::string("sqlite::memory:"));
}
