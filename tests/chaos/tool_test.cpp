// The tool as its users run it: the real program on real files; its exit code is the verdict.
#include "tool.hpp"
#include "temporary_directory.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#if defined(COFFERDAM_TOOL)

namespace chaos_tool {

using cofferdam::test::run_tool;
using cofferdam::test::temporary_directory;

const std::string lost_answers = COFFERDAM_SOURCE_DIR "/examples/chaos/lost_answers.json";

TEST_CASE("the tool runs scenarios, and its exit code is their verdict") {
  const temporary_directory place;
  const auto held = run_tool("run " + lost_answers);
  CHECK(held.code == 0);
  std::ifstream file(lost_answers);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::string likely = "\"at_least\": 50";
  const auto at = text.find(likely);
  REQUIRE(at != std::string::npos);
  std::ofstream(place.file("odd.json")) << text.replace(at, likely.size(), "\"at_least\": 987654321");
  const auto odd = run_tool("run " + place.file("odd.json"));
  CHECK(odd.code == 1);
  CHECK(odd.text.find("FAIL") != std::string::npos);
}

TEST_CASE("the tool writes its reports into a directory, and only reads what it is to check") {
  const temporary_directory place;
  CHECK(run_tool("run --format junit --out " + place.file("reports") + " " + lost_answers).code == 0);
  CHECK(std::filesystem::file_size(place.file("reports/lost_answers.xml")) > 0);
  const auto checked = run_tool("check " + lost_answers);
  CHECK(checked.code == 0);
  CHECK(checked.text == lost_answers + ": fine\n");
}

TEST_CASE("misuse and bad scenarios end the tool with 2, and it says why") {
  const temporary_directory place;
  CHECK(run_tool("").code == 2);
  CHECK(run_tool("--help").code == 0);
  const auto seed = run_tool("run --seed soon " + lost_answers);
  CHECK(seed.code == 2);
  CHECK(seed.text.find("soon") != std::string::npos);
  CHECK(run_tool("run --format pdf " + lost_answers).code == 2);
  CHECK(run_tool("run --variant unheard " + lost_answers).code == 2);
  CHECK(run_tool("run --real " + lost_answers).code == 2);
  CHECK(run_tool("demo " + place.file("")).code == 2);
  std::ofstream(place.file("bad.json")) << "{\"name\": 7}";
  const auto bad = run_tool("check " + place.file("bad.json"));
  CHECK(bad.code == 2);
  CHECK(bad.text.find("bad.json") != std::string::npos);
}

}  // namespace chaos_tool

#endif
