#if defined(COFFERDAM_TEST_KAFKA)

#include "async_test.hpp"
#include "kafka_cluster.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/net_sockets.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/messaging/kafka.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace kafka_cases {

using calls = test::kafka_brokers::request;
constexpr int keys = 5;

message numbered(int n, const std::string& topic = "orders") {
  return message(topic, "order.placed", std::to_string(n))
      .id("m-" + std::to_string(n))
      .key("k" + std::to_string(n % keys));
}

struct end {
  std::error_code code;
  std::string text;
};
awaitable<end> publish(kafka_publisher& to, const message& m) {
  end e;
  try {
    co_await to.publish(m);
  } catch (const error& why) {
    e = {why.code(), why.what()};
  }
  co_return e;
}
awaitable<end> connect(kafka_cluster cluster) {
  end e;
  try {
    (void)co_await kafka_publisher::connect(std::move(cluster));
  } catch (const error& why) {
    e = {why.code(), why.what()};
  }
  co_return e;
}

}  // namespace kafka_cases

TEST_CASE("messages that Kafka acknowledged are there: with key, id, type and headers, each key in order") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 4);
    const auto broker = co_await kafka_publisher::connect(brokers.addresses());
    constexpr int all = 200;
    for (int i = 0; i < all; ++i) {
      const message m = kafka_cases::numbered(i).header("traceparent", "00-abc");
      co_await broker->publish(m);
    }
    CHECK(broker->queued() == 0);
    const std::vector<std::string> topics{"orders"};
    const auto consumer = co_await kafka_consumer::connect(brokers.addresses(), topics, "shipping");
    std::map<std::string, int> last;
    std::map<std::string, std::string> place_of;
    for (int i = 0; i < all; ++i) {
      const auto d = co_await consumer->next(10s);
      REQUIRE(d);
      const int n = std::stoi(d->content.payload());
      const std::string& key = d->content.key();
      CHECK(key == "k" + std::to_string(n % kafka_cases::keys));
      CHECK(d->content.id() == "m-" + std::to_string(n));
      CHECK(d->content.type() == "order.placed");
      CHECK(d->content.headers() == std::map<std::string, std::string>{{"traceparent", "00-abc"}});
      CHECK(n == (last.contains(key) ? last[key] + kafka_cases::keys : n % kafka_cases::keys));
      CHECK(place_of.try_emplace(key, d->source()).first->second == d->source());
      last[key] = n;
    }
    CHECK(consumer->partitions() == std::vector<std::string>{"orders/0", "orders/1", "orders/2", "orders/3"});
    const auto none = co_await consumer->next(100ms);
    CHECK(!none);
    const auto wait = [&consumer] { return consumer->next(1h); };
    const auto cancelled = co_await try_with_timeout(50ms, wait);
    CHECK(cancelled.code() == errc::timed_out);
    co_await consumer->close();
  };
  test::run_in_real_time(body);
}

TEST_CASE("what brokers get over is borne by the Kafka client; its final failures are told apart") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 4);
    kafka_publisher_options options;
    options.message_timeout = 2s;
    options.max_message = 10'000;
    const auto broker = co_await kafka_publisher::connect(brokers.addresses(), options);
    const message m = kafka_cases::numbered(1);

    brokers.fail(kafka_cases::calls::produce,
                 {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                  RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_RESP_ERR__TRANSPORT});
    const auto borne = co_await kafka_cases::publish(*broker, m);
    CHECK(borne.text == "");

    const message large("orders", "t", std::string(20'000, 'x'));
    const auto too_large = co_await kafka_cases::publish(*broker, large);
    CHECK(too_large.code == errc::message_refused);
    brokers.fail(kafka_cases::calls::produce, {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE});
    const auto too_large_there = co_await kafka_cases::publish(*broker, m);
    CHECK(too_large_there.code == errc::message_refused);
    CHECK(too_large_there.text.starts_with("the message 'm-1' for 'orders': "));

    brokers.fail(kafka_cases::calls::produce, {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED});
    const auto forbidden = co_await kafka_cases::publish(*broker, m);
    CHECK(forbidden.code == errc::broker_refuses_login);

    brokers.set_topic_error("invoices", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    const message lost = kafka_cases::numbered(2, "invoices");
    const auto unknown = co_await kafka_cases::publish(*broker, lost);
    CHECK(unknown.code == errc::topic_missing);

    brokers.stop();
    const auto away = co_await kafka_cases::publish(*broker, m);
    CHECK(away.code == errc::broker_unavailable);
    brokers.start();
    const auto back = co_await kafka_cases::publish(*broker, m);
    CHECK(back.text == "");
  };
  test::run_in_real_time(body);
}

TEST_CASE("a Kafka cluster that is not there, or set up with what nobody knows, is an error of connect") {
  const auto body = []() -> awaitable<void> {
    kafka_cluster nowhere("127.0.0.1:1");
    nowhere.connect_timeout(500ms);
    const auto away = co_await kafka_cases::connect(nowhere);
    CHECK(away.code == errc::broker_unavailable);
    CHECK(away.text.find("127.0.0.1:1") != std::string::npos);
    kafka_cluster odd("127.0.0.1:1");
    odd.property("client.hat", "blue").property("security.protocol", "smoke");
    const auto unknown = co_await kafka_cases::connect(odd);
    CHECK(unknown.code == errc::invalid_options);
    CHECK(unknown.text.find("client.hat") != std::string::npos);
    CHECK(unknown.text.find("security.protocol") != std::string::npos);
    kafka_cluster unread("127.0.0.1:1");
    unread.tls("/nowhere/ca.pem");
    const auto no_certificate = co_await kafka_cases::connect(unread);
    CHECK(no_certificate.code == errc::invalid_options);
    CHECK(no_certificate.text.find("ssl.ca.location") != std::string::npos);
  };
  test::run_in_real_time(body);
}

namespace kafka_cases {

std::string number(std::int64_t n, int bytes) {
  std::string text;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) text.push_back(static_cast<char>(n >> shift));
  return text;
}

/// What a broker answers that asks for a login and takes none; nothing to what it does not know.
std::string answer(const std::string& request) {
  const int kind = static_cast<unsigned char>(request[1]), version = static_cast<unsigned char>(request[3]);
  const std::string correlation = request.substr(4, 4), ok = number(0, 2);
  if (kind == 18) {  // ApiVersions: those three kinds, in the form of its version
    std::string kinds;
    for (const auto& [each, last] : std::array{std::pair(17, 1), std::pair(18, 3), std::pair(36, 0)}) {
      kinds += number(each, 2) + number(0, 2) + number(last, 2) + (version >= 3 ? number(0, 1) : "");
    }
    const std::string count = version >= 3 ? number(4, 1) : number(3, 4);
    return correlation + ok + count + kinds + (version >= 1 ? number(0, 4) : "") + (version >= 3 ? number(0, 1) : "");
  }
  if (kind == 17) return correlation + ok + number(1, 4) + number(5, 2) + "PLAIN";          // SaslHandshake
  if (kind == 36) return correlation + number(58, 2) + number(2, 2) + "no" + number(0, 4);  // SaslAuthenticate
  return {};
}

awaitable<void> refuse_login(net::ip::tcp::socket client) {
  for (;;) {
    std::array<unsigned char, 4> size{};
    co_await net::async_read(client, net::buffer(size), net::use_awaitable);
    std::string request((std::size_t{size[2]} << 8U) + size[3], '\0');
    co_await net::async_read(client, net::buffer(request), net::use_awaitable);
    const std::string said = answer(request);
    if (said.empty()) co_return;
    const std::string framed = number(static_cast<std::int64_t>(said.size()), 4) + said;
    co_await net::async_write(client, net::buffer(framed), net::use_awaitable);
  }
}

}  // namespace kafka_cases

TEST_CASE("a Kafka broker that refuses the login is told from one that is away") {
  const auto body = []() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    net::ip::tcp::acceptor door(executor, {net::ip::address_v4::loopback(), 0});
    const auto serve = [&door, &executor]() -> awaitable<void> {
      for (;;) {
        auto client = co_await door.async_accept(net::use_awaitable);
        net::co_spawn(executor, kafka_cases::refuse_login(std::move(client)), net::detached);
      }
    };
    const spawned serving = spawn(executor, serve);
    kafka_cluster cluster("127.0.0.1:" + std::to_string(door.local_endpoint().port()));
    cluster.login("ada", "guess");
    const auto refused = co_await kafka_cases::connect(cluster);
    CHECK(refused.code == errc::broker_refuses_login);
    CHECK(refused.text.find("guess") == std::string::npos);
    serving.cancel();
  };
  test::run_in_real_time(body);
}

TEST_CASE("more messages than a Kafka client may queue wait for room, and none is lost") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 4);
    kafka_publisher_options options;
    options.max_queued = 10;
    const auto broker = co_await kafka_publisher::connect(brokers.addresses(), options);
    brokers.set_round_trip(5);
    int sent = 0, next = 0;
    std::size_t most = 0;
    const auto publish = [&]() -> awaitable<void> {
      while (next < 500) {
        const message m = kafka_cases::numbered(next++);
        co_await broker->publish(m);
        most = std::max(most, broker->queued());
        ++sent;
      }
    };
    const auto publishing = [&publish] { return publish(); };
    co_await detail::run_workers(100, publishing);
    CHECK(sent == 500);
    CHECK(most <= 10);

    brokers.set_round_trip(2'000);  // a wait for room ends when it is cancelled
    const auto stuck = [&]() -> awaitable<void> {
      const message m = kafka_cases::numbered(1);
      const auto call = [&] { return broker->publish(m); };
      const auto ended = co_await try_with_timeout(100ms, call);
      CHECK(ended.code() == errc::timed_out);
    };
    const auto sticking = [&stuck] { return stuck(); };
    co_await detail::run_workers(20, sticking);
    CHECK(broker->queued() == 10);  // these have left
    brokers.set_round_trip(0);
  };
  test::run_in_real_time(body);
}

TEST_CASE("of a wave to Kafka each message has its own end, also when the wave is larger than the queue") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 4);
    kafka_publisher_options options;
    options.max_queued = 10;
    options.max_message = 10'000;
    const auto broker = co_await kafka_publisher::connect(brokers.addresses(), options);
    constexpr int all = 500, odd = 77;
    std::vector<message> messages;
    for (int i = 0; i < all; ++i) messages.push_back(kafka_cases::numbered(i));
    messages[odd] = message("orders", "t", std::string(20'000, 'x')).id("large");
    std::vector<publication> wave;
    for (const message& m : messages) wave.push_back({&m});
    co_await broker->publish_all(wave);
    int done = 0;
    for (const publication& each : wave) done += each.is_done && !each.why ? 1 : 0;
    CHECK(done == all - 1);
    CHECK(!wave[odd].is_done);
    CHECK(wave[odd].why.code() == errc::message_refused);
    CHECK(wave[odd].why.message().starts_with("the message 'large' for 'orders': "));
    CHECK(broker->queued() == 0);
    co_await broker->publish_all({});

    brokers.set_round_trip(2'000);  // one that is left says of none that it is done
    std::vector<publication> left;
    for (int i = 0; i < 5; ++i) left.push_back({&messages[static_cast<std::size_t>(i)]});
    const auto call = [&] { return broker->publish_all(left); };
    const auto ended = co_await try_with_timeout(100ms, call);
    CHECK(ended.code() == errc::timed_out);
    for (const publication& each : left) CHECK((!each.is_done && !each.why));
    brokers.set_round_trip(0);
  };
  test::run_in_real_time(body);
}

TEST_CASE("a Kafka consumer that goes leaves to the next what it did not acknowledge; what it rejects comes again") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 1);
    const auto broker = co_await kafka_publisher::connect(brokers.addresses());
    for (int i = 0; i < 10; ++i) {
      const message m = kafka_cases::numbered(i);
      co_await broker->publish(m);
    }
    const std::vector<std::string> topics{"orders"};
    auto first = co_await kafka_consumer::connect(brokers.addresses(), topics, "shipping");
    std::vector<kafka_consumer::delivery> had;
    const auto read_one = [&had](kafka_consumer& from) -> awaitable<void> {
      auto d = co_await from.next(10s);
      if (!d) throw std::runtime_error("nothing came");
      had.push_back(std::move(*d));
    };
    for (int i = 0; i < 6; ++i) co_await read_one(*first);
    CHECK(had[5].number() == 6);
    first->reject(had[3]);
    for (int i = 0; i < 3; ++i) co_await read_one(*first);
    CHECK(had[6].offset == 3);
    CHECK(had[6].deliveries == 2);
    CHECK(had[7].offset == 4);
    CHECK(had[7].deliveries == 1);
    for (const std::size_t i : {2U, 0U, 6U, 8U}) first->acknowledge(had[i]);  // 2, 0, 3 and 5: neither 1 nor 4
    brokers.fail(kafka_cases::calls::offset_commit, {RD_KAFKA_RESP_ERR_NOT_COORDINATOR});
    co_await first->commit();
    co_await first->close();
    first.reset();

    const auto second = co_await kafka_consumer::connect(brokers.addresses(), topics, "shipping");
    had.clear();
    for (int i = 1; i < 10; ++i) {
      co_await read_one(*second);
      CHECK(had.back().offset == i);
      second->acknowledge(had.back());
    }
    co_await second->commit();
    co_await second->close();
  };
  test::run_in_real_time(body);
}

TEST_CASE("members of a Kafka group share the partitions; with an inbox each message has its effect once") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 4);
    const auto broker = co_await kafka_publisher::connect(brokers.addresses());
    database db = co_await database::open("sqlite::memory:");
    inbox seen = co_await inbox::open(db, "shipping");
    batch table;
    table.execute("create table orders(n integer primary key)");
    co_await db.commit(std::move(table));
    const std::vector<std::string> topics{"orders"};
    std::size_t effects = 0;
    const auto consume = [&](kafka_consumer& from, std::size_t until) -> awaitable<void> {
      while (effects < until) {
        const auto d = co_await from.next(200ms);
        if (!d) continue;
        batch effect;
        effect.execute("insert into orders(n) values($1)", std::stoi(d->content.payload()));
        const bool is_new = co_await seen.commit_up_to(std::move(effect), d->source(), d->number());
        effects += is_new ? 1 : 0;
        from.acknowledge(*d);
      }
    };
    int sent = 0;
    const auto send = [&](int count) -> awaitable<void> {
      for (int i = 0; i < count; ++i) {
        const message m = kafka_cases::numbered(sent++);
        co_await broker->publish(m);
      }
    };
    co_await send(100);
    kafka_consumer_options options;
    options.session_timeout = 4s;  // they hear of each other in a third of it
    const auto first = co_await kafka_consumer::connect(brokers.addresses(), topics, "shipping", options);
    co_await consume(*first, 100);
    CHECK(first->partitions().size() == 4);
    auto second = co_await kafka_consumer::connect(brokers.addresses(), topics, "shipping", options);
    const auto share = [&] { return first->partitions().size() == 2 && second->partitions().size() == 2; };
    for (int i = 0; i < 1'000 && !share(); ++i) {  // both must look to share
      const auto known = co_await first->next(20ms);
      const auto known_too = co_await second->next(20ms);
    }
    CHECK(first->partitions().size() == 2);
    CHECK(second->partitions().size() == 2);
    co_await send(100);
    int running = 0;
    const auto both = [&] { return consume(running++ == 0 ? *first : *second, 200); };
    co_await detail::run_workers(2, both);
    second.reset();  // leaves the group
    co_await send(50);
    co_await consume(*first, 250);
    const rows found = co_await db.query("select count(*), max(n) from orders");
    CHECK(found.front().get<int>(0) == 250);
    CHECK(found.front().get<int>(1) == 249);
    co_await first->close();
    co_await db.close();
  };
  test::run_in_real_time(body);
}

TEST_CASE("a relay carries an outbox to Kafka whose brokers fail and go again and again; all arrives, in order") {
  const auto body = []() -> awaitable<void> {
    test::kafka_brokers brokers;
    brokers.add_topic("orders", 4);
    const test::temporary_directory directory;
    database db = co_await database::open("sqlite:" + directory.file("outbox.db"));
    outbox messages = co_await outbox::open(db);
    kafka_publisher_options options;
    options.message_timeout = 500ms;
    const auto broker = co_await kafka_publisher::connect(brokers.one_at_a_time(), options);
    relay_options pace;
    pace.publish_timeout = 2s;
    pace.breaker.break_duration = 100ms;
    pace.backoff.cap = 200ms;
    relay carrier(messages, *broker, "relay", pace);
    const auto executor = co_await net::this_coro::executor;
    const auto job = spawn(executor, [&carrier] { return carrier.run(); });
    constexpr int all = 1'000;
    for (int i = 0; i < all; ++i) {
      batch b;
      messages.enqueue(b, kafka_cases::numbered(i));
      co_await db.commit(std::move(b));
      if (i % 50 == 10) {
        brokers.fail(kafka_cases::calls::produce,
                     {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR__TRANSPORT});
      }
      if (i % 300 == 100) {
        brokers.stop();
        co_await sleep_for(700ms);  // longer than the client tries
        brokers.start();
      }
    }
    for (;;) {
      const auto status = co_await carrier.status();
      CHECK(status.parked == 0);
      if (status.backlog == 0) break;
      co_await sleep_for(20ms);
    }
    co_await job.stop();

    const std::vector<std::string> topics{"orders"};
    const auto consumer = co_await kafka_consumer::connect(brokers.addresses(), topics, "shipping");
    inbox seen = co_await inbox::open(db, "shipping");
    batch table;
    table.execute("create table orders(key text not null, n integer not null)");
    co_await db.commit(std::move(table));
    int effects = 0;
    while (effects < all) {
      const auto d = co_await consumer->next(10s);
      REQUIRE(d);
      const int n = std::stoi(d->content.payload());
      batch effect;
      effect.require("the order of the key", "select coalesce(max(n), $2 - 5) = $2 - 5 from orders where key = $1",
                     d->content.key(), n);
      effect.execute("insert into orders(key, n) values($1, $2)", d->content.key(), n);
      const bool is_new = co_await seen.commit(std::move(effect), "orders", d->content.id());
      effects += is_new ? 1 : 0;
      consumer->acknowledge(*d);
    }
    const rows found = co_await db.query("select count(*), count(distinct n) from orders");
    CHECK(found.front().get<int>(0) == all);
    CHECK(found.front().get<int>(1) == all);
    co_await consumer->close();
    co_await db.close();
  };
  test::run_in_real_time(body);
}

#endif
