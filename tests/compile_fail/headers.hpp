// What the files of this folder include, precompiled once for all of them.
#pragma once

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/checked.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/saga/barrier.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/engine.hpp>
#include <cofferdam/saga/scope.hpp>
#include <cofferdam/saga/step.hpp>
