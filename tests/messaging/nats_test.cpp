#include "async_test.hpp"
#include "certificates.hpp"
#include "error_of.hpp"
#include "nats_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/messaging/in_process.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/receiver.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <functional>
#include <map>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

ASYNC_TEST("messages reach every handler of their topic, and none without one is waited for") {
  in_process_bus bus;
  std::vector<std::string> seen;
  bus.subscribe("a", [&seen](const message& m) -> awaitable<void> {
    seen.push_back("first " + m.payload());
    co_return;
  });
  bus.subscribe("a", [&seen](const message& m) -> awaitable<void> {
    seen.push_back("second " + m.payload());
    if (m.payload() == "bad") throw message_refused_error("bad");
    co_return;
  });
  const message good("a", "t", "1"), nobodys("b", "t", "2"), bad("a", "t", "bad");
  co_await bus.publish(good);
  co_await bus.publish(nobodys);
  const auto why = co_await test::error_of(bus.publish(bad));
  CHECK(why == "bad");
  CHECK(seen == std::vector<std::string>{"first 1", "second 1", "first bad", "second bad"});
}

ASYNC_TEST("messages go from an outbox to a receiver in the same process, and again when it gives them back") {
  database db = co_await database::open("sqlite::memory:");
  batch table;
  table.execute("create table parcels(id text primary key)");
  co_await db.commit(std::move(table));
  outbox messages = co_await outbox::open(db);
  inbox seen = co_await inbox::open(db, "shipping");
  in_process_bus bus;
  in_process_consumer from(bus, "orders");
  relay carrier(messages, bus);
  bool is_broken = true;
  receiver parcels(from, seen, "orders", [&is_broken](const message& m, batch& effect) -> awaitable<void> {
    if (is_broken) throw circuit_open_error(errc::circuit_open, nullptr);
    effect.execute("insert into parcels(id) values($1)", m.payload());
    co_return;
  });
  const auto executor = co_await net::this_coro::executor;
  const auto carrying = spawn(executor, [&carrier] { return carrier.run(); });
  {
    const auto receiving = spawn(executor, [&parcels] { return parcels.run(); });
    for (int i = 0; i < 50; ++i) {
      batch b;
      messages.enqueue(b, message("orders", "t", "p" + std::to_string(i)).key("k" + std::to_string(i % 7)));
      co_await db.commit(std::move(b));
    }
    co_await sleep_for(5s);
    co_await receiving.stop();
  }
  auto status = co_await carrier.status();
  CHECK(status.backlog == 50);
  is_broken = false;
  const auto receiving = spawn(executor, [&parcels] { return parcels.run(); });
  co_await sleep_for(60s);
  const rows found = co_await db.query("select count(*) from parcels");
  CHECK(found.front().get<int>(0) == 50);
  status = co_await carrier.status();
  CHECK(status.backlog == 0);
  CHECK(status.parked == 0);
  co_await carrying.stop();
  co_await receiving.stop();
}

#if defined(COFFERDAM_TEST_NATS)

namespace nats_cases {

void on_nats(const std::function<awaitable<void>(test::nats_process&)>& body, const std::string& settings = {}) {
  if (!test::nats_process::is_here()) return;
  test::nats_process server(settings);
  const auto run = [&] { return body(server); };
  test::run_in_real_time(run);
}

message numbered(int n, const std::string& topic = "orders.placed") {
  return message(topic, "order.placed", std::to_string(n))
      .id("m-" + std::to_string(n))
      .key("k" + std::to_string(n % 5));
}

struct nats_end {
  std::error_code code;
  std::string text;
};
awaitable<nats_end> connect(nats_server server) {
  nats_end e;
  try {
    (void)co_await nats_publisher::connect(std::move(server));
  } catch (const error& why) {
    e = {why.code(), why.what()};
  }
  co_return e;
}

}  // namespace nats_cases

TEST_CASE("messages published to NATS are stored once for their ids, with their headers") {
  nats_cases::on_nats([](test::nats_process& server) -> awaitable<void> {
    const auto broker = co_await nats_publisher::connect(server.url());
    co_await broker->ensure_stream("ORDERS", "orders.>");
    co_await broker->ensure_stream("ORDERS", "orders.>");
    for (int i = 0; i < 20; ++i) {
      const message m = nats_cases::numbered(i).header("traceparent", "00-abc");
      co_await broker->publish(m);
      co_await broker->publish(m);
    }
    const auto stored = co_await broker->count("ORDERS");
    CHECK(stored == 20);
    CHECK(broker->duplicates() == 20);
    const auto consumer = co_await nats_consumer::connect(server.url(), "ORDERS", "shipping");
    for (int i = 0; i < 20; ++i) {
      auto d = co_await consumer->next(5s);
      REQUIRE(d);
      CHECK(d->content.payload() == std::to_string(i));
      CHECK(d->content.id() == "m-" + std::to_string(i));
      CHECK(d->content.key() == "k" + std::to_string(i % 5));
      CHECK(d->content.type() == "order.placed");
      CHECK(d->content.headers().at("traceparent") == "00-abc");
      CHECK(d->content.headers().at("ce-specversion") == "1.0");
      CHECK(d->sequence == static_cast<std::uint64_t>(i) + 1);
      consumer->acknowledge(*d);
    }
    const auto none = co_await consumer->next(300ms);
    CHECK(!none);
  });
}

TEST_CASE("what NATS says is told apart: no stream, too large, no server, wrong login") {
  nats_cases::on_nats(
      [](test::nats_process& server) -> awaitable<void> {
        const auto broker = co_await nats_publisher::connect(server.url());
        co_await broker->ensure_stream("ORDERS", "orders.>");
        const message lost = nats_cases::numbered(1, "invoices.made");
        std::error_code code;
        try {
          co_await broker->publish(lost);
        } catch (const error& e) {
          code = e.code();
        }
        CHECK(code == errc::topic_missing);
        const message large("orders.placed", "t", std::string(5'000, 'x'));
        code = {};
        try {
          co_await broker->publish(large);
        } catch (const error& e) {
          code = e.code();
        }
        CHECK(code == errc::message_refused);
        code = {};
        try {
          (void)co_await nats_publisher::connect("nats://127.0.0.1:1");
        } catch (const error& e) {
          code = e.code();
        }
        CHECK(code == errc::broker_unavailable);
      },
      "max_payload: 4096");
  nats_cases::on_nats(
      [](test::nats_process& server) -> awaitable<void> {
        std::error_code code;
        std::string text;
        std::string url = server.url();
        url.insert(std::string("nats://").size(), "ada:wrong@");
        try {
          (void)co_await nats_publisher::connect(url);
        } catch (const error& e) {
          code = e.code();
          text = e.what();
        }
        CHECK(code == errc::broker_refuses_login);
        CHECK(text.find("wrong") == std::string::npos);
      },
      "authorization { user: ada, password: right }");
}

TEST_CASE("a NATS server with TLS and a login takes who has both, and whoever has not hears why") {
  if (!test::nats_process::is_here() || !test::certificates::can_be_made()) return;
  const test::certificates authority, stranger;
  authority.sign("server");
  authority.sign("ada");
  const std::string tls = "cert_file: \"" + authority.certificate("server") + "\", key_file: \"" +
                          authority.key("server") + "\", ca_file: \"" + authority.ca() + "\", timeout: 5";
  nats_cases::on_nats(
      [&](test::nats_process& server) -> awaitable<void> {
        const std::string place = server.url().substr(std::string("nats://").size());
        nats_server right("tls://ada:secret@" + place);
        right.ca_file(authority.ca());
        const auto broker = co_await nats_publisher::connect(right);
        co_await broker->ensure_stream("ORDERS", "orders.>");
        const message m = nats_cases::numbered(1);
        co_await broker->publish(m);

        nats_server no_login("tls://ada:guess@" + place);
        no_login.ca_file(authority.ca());
        const auto refused = co_await nats_cases::connect(no_login);
        CHECK(refused.code == errc::broker_refuses_login);
        CHECK(refused.text.find("guess") == std::string::npos);

        nats_server wrong_ca("tls://ada:secret@" + place);
        wrong_ca.ca_file(stranger.ca());
        const auto distrusted = co_await nats_cases::connect(wrong_ca);
        CHECK(distrusted.code == errc::broker_unavailable);
        CHECK(distrusted.text.find("certificate") != std::string::npos);

        const auto plain = co_await nats_cases::connect("nats://ada:secret@" + place);
        CHECK(plain.code == errc::broker_unavailable);
        CHECK(plain.text.find("certificate") != std::string::npos);  // the server wants TLS, and whom to trust?

        nats_server unread("tls://ada:secret@" + place);
        unread.ca_file("/nowhere/ca.pem");
        const auto no_file = co_await nats_cases::connect(unread);
        CHECK(no_file.text.find("'/nowhere/ca.pem'") != std::string::npos);
        nats_server no_credentials("tls://" + place);
        no_credentials.ca_file(authority.ca()).credentials_file("/nowhere/ada.creds");
        const auto nobody = co_await nats_cases::connect(no_credentials);
        CHECK(nobody.text.find("/nowhere/ada.creds") != std::string::npos);
      },
      "tls { " + tls + " }\nauthorization { user: ada, password: secret }");
  nats_cases::on_nats(
      [&](test::nats_process& server) -> awaitable<void> {
        nats_server anonymous("tls://" + server.url().substr(std::string("nats://").size()));
        anonymous.ca_file(authority.ca());
        const auto refused = co_await nats_cases::connect(anonymous);
        CHECK(refused.code == errc::broker_unavailable);
        nats_server known = anonymous;
        known.client_certificate(authority.certificate("ada"), authority.key("ada"));
        const auto taken = co_await nats_cases::connect(known);
        CHECK(taken.text == "");
      },
      "tls { " + tls + ", verify: true }");
}

TEST_CASE("what NATS does not acknowledge is bounded: more messages wait, and those given up make room") {
  nats_cases::on_nats([](test::nats_process& server) -> awaitable<void> {
    nats_publisher_options options;
    options.max_pending = 20;
    const auto broker = co_await nats_publisher::connect(server.url(), options);
    co_await broker->ensure_stream("ORDERS", "orders.>");
    server.pause();
    int next = 0, late = 0;
    const auto in_vain = [&]() -> awaitable<void> {
      const message m = nats_cases::numbered(next++);
      const auto call = [&] { return broker->publish(m); };
      const auto ended = co_await try_with_timeout(100ms, call);
      late += ended.code() == errc::timed_out ? 1 : 0;
    };
    const auto publish_in_vain = [&in_vain] { return in_vain(); };
    co_await detail::run_workers(30, publish_in_vain);
    CHECK(late == 30);
    CHECK(broker->pending() == 20);  // ten were never sent
    co_await detail::run_workers(10, publish_in_vain);
    CHECK(late == 40);
    CHECK(broker->pending() == 10);  // the twenty that nobody waited for are forgotten
    server.resume();
    const message m = nats_cases::numbered(next);
    co_await broker->publish(m);
    const auto stored = co_await broker->count("ORDERS");
    CHECK(stored == 31);  // what was sent arrived, acknowledged or not
    CHECK(broker->pending() == 0);
  });
}

TEST_CASE("a message that is rejected, or not acknowledged in time, comes again") {
  nats_cases::on_nats([](test::nats_process& server) -> awaitable<void> {
    const auto broker = co_await nats_publisher::connect(server.url());
    co_await broker->ensure_stream("ORDERS", "orders.>");
    const message m = nats_cases::numbered(1);
    co_await broker->publish(m);
    const auto consumer = co_await nats_consumer::connect(server.url(), "ORDERS", "shipping", 500ms);
    auto first = co_await consumer->next(5s);
    REQUIRE(first);
    consumer->reject(*first);
    auto second = co_await consumer->next(5s);
    REQUIRE(second);
    CHECK(second->deliveries == 2);
    auto third = co_await consumer->next(5s);  // after ack_wait
    REQUIRE(third);
    CHECK(third->deliveries == 3);
    consumer->acknowledge(*third);
    const auto none = co_await consumer->next(1s);
    CHECK(!none);
  });
}

TEST_CASE(
    "a relay carries an outbox to NATS while its server is killed again and again; a consumer has all, in order") {
  nats_cases::on_nats([](test::nats_process& server) -> awaitable<void> {
    const test::temporary_directory directory;
    database db = co_await database::open("sqlite:" + directory.file("outbox.db"));
    outbox messages = co_await outbox::open(db);
    const auto broker = co_await nats_publisher::connect(server.url());
    co_await broker->ensure_stream("ORDERS", "orders.>");
    relay_options options;
    options.publish_timeout = 500ms;
    options.breaker.break_duration = 100ms;
    options.backoff.cap = 200ms;
    relay carrier(messages, *broker, "relay", options);
    const auto executor = co_await net::this_coro::executor;
    const auto job = spawn(executor, [&carrier] { return carrier.run(); });
    constexpr int all = 1'000;
    for (int i = 0; i < all; ++i) {
      batch b;
      messages.enqueue(b, nats_cases::numbered(i));
      co_await db.commit(std::move(b));
      if (i % 200 == 100) {
        server.stop(SIGKILL);
        co_await sleep_for(50ms);
        server.start();
      }
    }
    for (;;) {
      const auto status = co_await carrier.status();
      CHECK(status.parked == 0);
      if (status.backlog == 0) break;
      co_await sleep_for(20ms);
    }
    co_await job.stop();

    database far = co_await database::open("sqlite:" + directory.file("far.db"));
    inbox seen = co_await inbox::open(far, "test");
    batch table;
    table.execute("create table orders(key text not null, n integer not null)");
    co_await far.commit(std::move(table));
    const auto consumer = co_await nats_consumer::connect(server.url(), "ORDERS", "shipping");
    int effects = 0;
    while (effects < all) {
      auto d = co_await consumer->next(10s);
      REQUIRE(d);
      const int n = std::stoi(d->content.payload());
      batch effect;
      effect.require("the order of the key", "select coalesce(max(n), $2 - 5) = $2 - 5 from orders where key = $1",
                     d->content.key(), n);
      effect.execute("insert into orders(key, n) values($1, $2)", d->content.key(), n);
      const bool is_new = co_await seen.commit(std::move(effect), "ORDERS", d->content.id());
      effects += is_new ? 1 : 0;
      consumer->acknowledge(*d);
    }
    const rows found = co_await far.query("select count(*), count(distinct n) from orders");
    CHECK(found.front().get<int>(0) == all);
    CHECK(found.front().get<int>(1) == all);
    co_await db.close();
    co_await far.close();
  });
}

#endif
