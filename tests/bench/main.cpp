// The benchmarks of all folders, as one program.
#include <benchmark/benchmark.h>
#include <malloc.h>

int main(int count, char** words) {
  // A service that has been at work for a while has its memory; here it would go back after every round.
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
  benchmark::Initialize(&count, words);
  if (benchmark::ReportUnrecognizedArguments(count, words)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
