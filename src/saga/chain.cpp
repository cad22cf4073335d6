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
    const link::made made = each.make(each, run, s);
    erased_operation work(*made.work, made.finish);
    co_await work;
  }
}

class all_links final : public all_work {
 public:
  all_links(const link& self, const run_pointer& run, scope& s) : all_work(s.owner(), s.control()) {
    for (const link& each : self.inner) {
      branches_.push_back(std::make_unique<links_branch>(s.owner(), s.key_of(each.name), std::span(&each, 1), run));
      pointers_.push_back(branches_.back().get());
    }
  }
  static void finish(operation& work) { static_cast<all_links&>(work).raise_failure(); }

 private:
  std::span<branch_base* const> branches() noexcept override { return pointers_; }
  std::vector<std::unique_ptr<links_branch>> branches_;
  std::vector<branch_base*> pointers_;
};

void finish_pause(operation& work) { static_cast<sleep_operation&>(work).await_resume(); }

// ------------------------------------------------------------------------------------------------------------- graphs

std::string label_of(const link& each) {
  if (each.what == link::kind::wait) return "wait for " + std::string(each.name);
  if (each.what == link::kind::pause) return "wait";
  const char* role = each.role == step_kind::pivot       ? " (pivot)"
                     : each.role == step_kind::retriable ? " (retriable)"
                                                         : "";
  return std::string(each.name) + role + (each.has_undo ? ", can be undone" : "");
}

/// Writes nodes and edges in either language.
class graph_writer {
 public:
  graph_writer(std::string arrow, std::string open, std::string close)
      : arrow_(std::move(arrow)), open_(std::move(open)), close_(std::move(close)) {}

  std::vector<std::string> write(const std::vector<link>& links, std::vector<std::string> from) {
    for (const link& each : links) {
      if (each.what == link::kind::when) {
        auto after = write(each.inner, from);
        from.insert(from.end(), after.begin(), after.end());  // with what is passed by
        continue;
      }
      if (each.what == link::kind::all) {
        std::vector<std::string> after;
        for (const link& branch : each.inner) {
          const auto end = write({branch}, from);
          after.insert(after.end(), end.begin(), end.end());
        }
        from = std::move(after);
        continue;
      }
      const std::string node = "s" + std::to_string(++count_);
      text_ += "  " + node + open_ + '"' + label_of(each) + '"' + close_ + "\n";
      for (const auto& before : from) text_ += "  " + before + arrow_ + node + "\n";
      from = {node};
    }
    return from;
  }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  std::string arrow_, open_, close_, text_;
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

std::string to_mermaid(std::string_view name, const std::vector<link>& links) {
  graph_writer graph(" --> ", "[", "]");
  graph.write(links, {"start"});
  return "flowchart TD\n  start([\"" + std::string(name) + "\"])\n" + graph.text();
}
std::string to_dot(std::string_view name, const std::vector<link>& links) {
  graph_writer graph(" -> ", " [label=", "]");
  graph.write(links, {"start"});
  return "digraph saga {\n  start [shape=oval, label=\"" + std::string(name) + "\"]\n  node [shape=box]\n" +
         graph.text() + "}\n";
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
