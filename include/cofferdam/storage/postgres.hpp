// PostgreSQL as an `operation` sees it: statements sent inside the batch's transaction, answers later.
#pragma once

#include <cofferdam/storage/rows.hpp>
#include <cofferdam/storage/value.hpp>

#include <functional>

namespace cofferdam::inline COFFERDAM_ABI::postgres {

/// The pipeline of one batch. What the server rejects refuses the batch: conditions are functions that raise.
class pipeline {
 public:
  virtual ~pipeline() = default;
  /// @param answer  called with the rows when the whole batch is committed; may be empty.
  virtual void send(statement s, std::function<void(rows)> answer = {}) = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::postgres
