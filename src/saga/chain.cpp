#include <cofferdam/saga/chain.hpp>

#include "instance.hpp"

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {
namespace {

task<void> run_links(scope& s, std::span<const link> links, run_pointer run) {
  for (const link& each : links) {
    if (each.what == link::kind::when) {
      if (each.holds(*run)) co_await run_links(s, each.inner, run);
      continue;
    }
    if (each.what == link::kind::repeat) {
      auto& rounds = *static_cast<std::optional<std::uint32_t>*>(run->slots()[each.rounds]);
      for (rounds = 0; each.holds(*run);) {
        ++*rounds;
        scope round(s.owner(), s.control(), s.key_of(each.name) + '/');
        co_await run_links(round, each.inner, run);
      }
      continue;
    }
    const link::made made = each.make(each, run, s);
    erased_operation work(*made.work, made.finish);
    co_await work;
  }
}

/// A branch for each link.
class branches_of {
 public:
  branches_of(const link& self, const run_pointer& run, scope& s) {
    for (const link& each : self.inner) {
      branches_.push_back(std::make_unique<links_branch>(s.owner(), s.key_of(each.name), std::span(&each, 1), run));
      pointers_.push_back(branches_.back().get());
    }
  }
  [[nodiscard]] std::span<branch_base* const> pointers() const noexcept { return pointers_; }

 private:
  std::vector<std::unique_ptr<links_branch>> branches_;
  std::vector<branch_base*> pointers_;
};

class all_links final : public all_work {
 public:
  all_links(const link& self, const run_pointer& run, scope& s)
      : all_work(s.owner(), s.control()), branches_(self, run, s) {
    undo_in_parallel(self.is_undone_in_parallel);
  }
  static void finish(operation& work) { static_cast<all_links&>(work).raise_failure(); }

 private:
  std::span<branch_base* const> branches() noexcept override { return branches_.pointers(); }
  branches_of branches_;
};

class any_links final : public race_work {
 public:
  any_links(const link& self, const run_pointer& run, scope& s)
      : race_work(s.owner(), s.control(), s.key_of(self.name)), self_(&self), run_(run), branches_(self, run, s) {}
  static void finish(operation& work) {
    auto& self = static_cast<any_links&>(work);
    const std::size_t winner = self.winner();
    for (std::size_t i = 0; i < self.self_->inner.size(); ++i) {
      if (i != winner) self.self_->inner[i].forget(*self.run_);
    }
  }
  [[nodiscard]] std::span<branch_base* const> branches() noexcept override { return branches_.pointers(); }

 private:
  const link* self_;
  run_pointer run_;
  branches_of branches_;
};

void finish_pause(operation& work) { static_cast<sleep_operation&>(work).await_resume(); }

// ------------------------------------------------------------------------------------------------------------- graphs

std::string label_of(const link& each) {
  if (each.what == link::kind::wait) return "wait for " + std::string(each.name);
  if (each.what == link::kind::pause) return "wait";
  const char* role = each.role == step_kind::pivot       ? " (pivot)"
                     : each.role == step_kind::retriable ? " (retriable)"
                     : each.role == step_kind::read_only ? " (read-only)"
                                                         : "";
  if (each.what == link::kind::lock) return "lock";
  if (each.what == link::kind::call) {
    const std::string child(each.child_name);
    return std::string(each.name) + " (saga" + (child.empty() ? "" : " ") + child + ')';
  }
  return std::string(each.name) + role + (each.has_undo ? ", can be undone" : "");
}

/// Writes nodes and edges in either language.
class graph_writer {
 public:
  graph_writer(std::string arrow, std::string open, std::string close, bool is_mermaid)
      : arrow_(std::move(arrow)), open_(std::move(open)), close_(std::move(close)), is_mermaid_(is_mermaid) {}

  std::vector<std::string> write(const std::vector<link>& links, std::vector<std::string> from,
                                 const char* remark = "") {
    for (const link& each : links) {
      if (each.what == link::kind::when) {
        auto after = write(each.inner, from);
        from.insert(from.end(), after.begin(), after.end());  // with what is passed by
        continue;
      }
      if (each.what == link::kind::repeat) {
        const std::string first = "s" + std::to_string(count_ + 1);
        auto after = write(each.inner, from);
        for (const auto& last : after) {
          text_ += "  " + last + (is_mermaid_ ? " -->|again| " + first : " -> " + first + " [label=\"again\"]") + "\n";
        }
        from.insert(from.end(), after.begin(), after.end());  // or no round at all
        continue;
      }
      if (each.what == link::kind::all || each.what == link::kind::any) {
        std::vector<std::string> after;
        for (const link& branch : each.inner) {
          const auto end = write({branch}, from, each.what == link::kind::any ? " (in a race)" : "");
          after.insert(after.end(), end.begin(), end.end());
        }
        from = std::move(after);
        continue;
      }
      const std::string node = "s" + std::to_string(++count_);
      text_ += "  " + node + open_ + '"' + label_of(each) + remark + '"' + close_ + "\n";
      for (const auto& before : from) text_ += "  " + before + arrow_ + node + "\n";
      from = {node};
    }
    return from;
  }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  std::string arrow_, open_, close_, text_;
  bool is_mermaid_;
  int count_ = 0;
};

}  // namespace

void raise_missing(std::string_view step) {
  throw std::logic_error("the step '" + std::string(step) + "' has no result: it was passed by");
}

link::made make_pause(const link& self, const run_pointer&, scope& s) {
  return {std::make_unique<sleep_operation>(s.owner(), s.control(), s.key_of("sleep"), std::string(), self.limit),
          finish_pause};
}
link::made make_lock(const link& self, const std::string& resource, scope& s) {
  const auto finish = [](operation& work) { static_cast<lock_operation&>(work).await_resume(); };
  return {std::make_unique<lock_operation>(s.owner(), s.control(), s.key_of("lock:" + resource), resource, self.limit),
          finish};
}
link::made make_any(const link& self, const run_pointer& run, scope& s) {
  return {std::make_unique<any_links>(self, run, s), any_links::finish};
}
link::made make_all(const link& self, const run_pointer& run, scope& s) {
  return {std::make_unique<all_links>(self, run, s), all_links::finish};
}

links_branch::links_branch(instance& saga, std::string path, std::span<const link> links, run_pointer run)
    : branch_base(saga, std::move(path)), links_(links), run_(std::move(run)), scope_(saga, control(), prefix()) {}

std::coroutine_handle<> links_branch::start() {
  task_.emplace(run_links(scope_, links_, run_));
  return task_->handle();
}
std::exception_ptr links_branch::take() {
  try {
    task_->take();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

void mark_repeated(std::vector<link>& links) {
  for (link& each : links) {
    each.is_repeated = true;
    mark_repeated(each.inner);
  }
}

void collect(const journal_view& journal, std::span<const link> links, const std::string& at, const std::string& key,
             nlohmann::json& found) {
  for (const link& each : links) {
    const std::string name(each.name);
    if (each.what == link::kind::repeat) {
      std::uint32_t rounds = 0;
      for (bool is_last = false; !is_last;) {
        const std::string round = at + name + '#' + std::to_string(rounds + 1) + '/';
        if (!journal.has_any(round)) break;
        ++rounds;
        collect(journal, each.inner, round, key, found);
        is_last = key.starts_with(round);
      }
      found[name] = rounds;
      continue;
    }
    collect(journal, each.inner, at, key, found);
    if (each.what == link::kind::wait) {
      const nlohmann::json* signal = journal.result_of(at + "signal:" + each.key());
      found[name] = signal != nullptr ? signal->at("payload") : nlohmann::json();
    } else if (const nlohmann::json* result = journal.result_of(at + each.key())) {
      found[name] = *result;
    }
  }
}

std::string to_mermaid(std::string_view name, const std::vector<link>& links) {
  graph_writer graph(" --> ", "[", "]", true);
  graph.write(links, {"start"});
  return "flowchart TD\n  start([\"" + std::string(name) + "\"])\n" + graph.text();
}
std::string to_dot(std::string_view name, const std::vector<link>& links) {
  graph_writer graph(" -> ", " [label=", "]", false);
  graph.write(links, {"start"});
  return "digraph saga {\n  start [shape=oval, label=\"" + std::string(name) + "\"]\n  node [shape=box]\n" +
         graph.text() + "}\n";
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
