#!/usr/bin/env python3
"""Do the tests notice when the logic changes? Changes one operator, constant, condition or statement of a pure core at
a time and runs the core's own tests, which should fail. Survivors are to be killed by a test,
or to be listed in survivors.md with the reason why no test can. Writes only below build/mutation.

usage: mutate.py [--sample N] [--seed S] [--part I/N] [--jobs J] [--build DIR] [FILE...]   (files by the end of their names)
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/mutation"
TESTS = {  # which tests are to notice; of a header, one
    "src/core/backoff.cpp": ["core/backoff_test"],
    "src/resilience/call_window.cpp": ["resilience/call_window_test", "resilience/circuit_core_test"],
    "src/resilience/circuit_core.cpp": ["resilience/circuit_core_test", "resilience/core_corners_test",
                                        "resilience/circuit_breaker_test"],
    "src/resilience/latency_histogram.cpp": ["resilience/latency_histogram_test"],
    "src/resilience/limit_core.cpp": ["resilience/limit_core_test"],
    "src/resilience/moving_percentile.cpp": ["resilience/latency_histogram_test"],
    "src/resilience/rate_core.cpp": ["resilience/rate_limiter_test"],
    "src/resilience/retry_budget.cpp": ["resilience/retry_budget_test"],
    "include/cofferdam/resilience/detail/batch_answers.hpp": ["resilience/batch_answers_test"],
    "include/cofferdam/resilience/detail/cache_table.hpp": ["resilience/cache_table_test"],
    "include/cofferdam/resilience/detail/flight_watch.hpp": ["resilience/flight_watch_test"],
    "include/cofferdam/resilience/detail/wait_line.hpp": ["resilience/wait_line_test"],
}

Mutant = collections.namedtuple("Mutant", "file number before after")  # `number` of the line, its two texts

# -- What is changed ---------------------------------------------------------------------------------------------------

SWAPS = [(" <= ", " < "), (" >= ", " > "), (" < ", " <= "), (" > ", " >= "), (" == ", " != "), (" != ", " == "),
         (" + ", " - "), (" - ", " + "), (" * ", " / "), (" / ", " * "), (" % ", " * "), (" && ", " || "),
         (" || ", " && "), (" & ", " | "), (" | ", " & "), (" << ", " >> "), (" >> ", " << "), (" += ", " -= "),
         (" -= ", " += "), ("++", "--"), ("--", "++"), ("std::min", "std::max"), ("std::max", "std::min"),
         ("true", "false"), ("false", "true")]
NUMBER = re.compile(r"(?<![\w.'])(?<!e-)(\d[\d']*)(\.\d+)?(?=U?\b)(?![\w.']*(?<!U)[\w.'])")
NO_STATEMENT = re.compile(r"(const|auto|constexpr|static|using|return|break|continue|throw|case|default|struct|class|"
                          r"enum|namespace|template|public|private|explicit|friend|\W*})\b|.*\bnoexcept;|.*= default;")


def code_of(line):
    """The line with strings blanked out and without its comment, so that places in it are places in the line."""
    line = re.sub(r'"(\\.|[^"\\])*"', lambda text: '"' + " " * (len(text[0]) - 2) + '"', line)
    return "" if line.lstrip().startswith(("#", "//")) else line.split("//")[0].rstrip()


def changes_of(line):
    """Every changed text of a line."""
    code = code_of(line)
    for old, new in SWAPS:
        for found in re.finditer(re.escape(old) if old[0] in " +-" else rf"\b{re.escape(old)}\b", code):
            yield line[:found.start()] + new + line[found.end():]
    for found in NUMBER.finditer(code):
        whole, fraction = int(found[1].replace("'", "")), found[2] or ""
        for other in ([whole + 1, whole - 1] if whole > 0 else [1]):
            yield line[:found.start()] + f"{other}{fraction}" + line[found.end():]
    condition = re.match(r"(\s*(?:} else )?if \()(.*?)(\) (?:return\b|\{|\[\[|\+\+|--|\w).*)$", code)
    if condition and condition[2].count("(") == condition[2].count(")") and "; " not in condition[2]:
        yield f"{condition[1]}!({condition[2]}){condition[3]}"
    statement = code.strip()
    if statement.endswith(";") and statement.count("(") == statement.count(")") and not NO_STATEMENT.match(statement):
        yield line[:len(line) - len(line.lstrip())] + "/* dropped */;"


def mutants_of(file):
    lines = (ROOT / file).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        for changed in dict.fromkeys(changes_of(line)):
            yield Mutant(file, number, line, changed)


def listed_equivalents():
    """{(file, before, after)} of survivors.md: `- `before` becomes `after`: why` below `## file`."""
    listed, file = set(), None
    for line in (ROOT / "tests/mutation/survivors.md").read_text().splitlines():
        if line.startswith("## "):
            file = line[3:]
        elif entry := re.match(r"- `` (.*?) `` becomes `` (.*?) ``: ", line):
            listed.add((file, entry[1], entry[2]))
    return listed


def key_of(mutant):
    return mutant.file, mutant.before.strip(), mutant.after.strip()


# -- Building and running ----------------------------------------------------------------------------------------------

def bodies_of(lines):
    """[begin, end) of every function's body that a switch can choose, as indices: what is formatted as `head {` to `}`
    at the margin."""
    for end, line in enumerate(lines):
        if line != "}":
            continue
        head = next(i for i in range(end - 1, -1, -1) if lines[i] and not lines[i][0].isspace())
        begin = next(i for i in range(head, end) if code_of(lines[i]).endswith("{")) + 1
        signature = " ".join(lines[head:begin])
        if not signature.startswith("namespace") and "constexpr" not in signature:
            yield begin, end


def object_of(test):
    return BUILD / f"{pathlib.Path(test).name}.o"


SWITCH = """#include <cstdlib>
static const int mutant_at_work = std::getenv("COFFERDAM_MUTANT") ? std::atoi(std::getenv("COFFERDAM_MUTANT")) : -1;
"""


class Workshop:
    """Everything built but the files at work. A file's mutants are compiled together where they can be, as cases of a
    switch in each function; those elsewhere, one at a time."""

    def __init__(self, build, jobs):
        self.build = build
        run = lambda *command: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        if build == BUILD:
            run("cmake", "--preset", "dev", "-B", str(BUILD), "-DCMAKE_UNITY_BUILD=ON", "-DCOFFERDAM_BUILD_EXAMPLES=OFF")
        run("cmake", "--build", str(build), "-j", str(jobs), "--target", "cofferdam_resilience",
            "cofferdam_test_support")
        self.commands = json.loads((build / "compile_commands.json").read_text())
        for entry in self.commands:  # without a launcher in front of the compiler
            words = entry["command"].split()
            entry["command"] = " ".join(words[next(i for i, word in enumerate(words) if "++" in word):])
        self.patience, self.together = {}, {}

    def compile(self, source, out, includes=()):
        """As the build would; what reaches beyond its memory shall not survive by luck. The messages, if it fails."""
        target = "cofferdam_resilience_tests.dir" if "/tests/" in source else "cofferdam_resilience.dir"
        entry = next(entry for entry in self.commands if target in entry["command"])
        command = entry["command"].split()
        command = [command[0], "-fsanitize=address", *(f"-I{place}" for place in includes),
                   *command[1:command.index("-o")], "-O1", "-g0", "-w", "-c", source, "-o", str(out)]
        ended = subprocess.run(command, cwd=entry["directory"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
        return ended.stderr if ended.returncode != 0 else ""

    def link(self, program, *objects):
        """The first definition of what is there twice counts."""
        compiler = self.commands[0]["command"].split()[0]
        subprocess.run([compiler, "-fsanitize=address", "-Wl,-z,muldefs", *objects,
                        *self.build.glob("tests/CMakeFiles/cofferdam_test_support.dir/**/*.o"),
                        self.build / "libcofferdam_resilience.a", self.build / "libcofferdam_core.a", "-pthread",
                        "-o", program], check=True, stderr=subprocess.DEVNULL)

    def test_objects(self, file):
        for test in TESTS[file]:
            if problems := self.compile(str(ROOT / f"tests/{test}.cpp"), object_of(test)):
                sys.exit(problems)
        return [object_of(test) for test in TESTS[file]]

    def verdict(self, file, program, number):
        """The quick tests first: models are compared over many operations."""
        try:
            for tests in ("~[model]", "[model]"):
                ended = subprocess.run([program, "--abort", tests], cwd=program.parent, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, timeout=self.patience.get(file, 300),
                                       env={**os.environ, "COFFERDAM_MUTANT": str(number)})
                if ended.returncode != 0:
                    return "killed"
            return "survives"
        except subprocess.TimeoutExpired:
            return "killed"

    def prepare(self, file, mutants):
        """Builds the file with all those of its `(number, mutant)` that a switch can choose. The tests must pass on the
        file as it is; how long they take says when a mutant hangs."""
        place = BUILD / pathlib.Path(file).stem
        place.mkdir(parents=True, exist_ok=True)
        self.together[file] = (place / "tests", set(), set())  # with whom it can be asked for, and who is stillborn
        if file.endswith(".hpp"):
            if self.alone("none", file, (ROOT / file).read_text()) != "survives":
                sys.exit(f"{' '.join(TESTS[file])}: fails without any change of {file}")
            return
        lines = (ROOT / file).read_text().splitlines()
        bodies = {line: body for body in bodies_of(lines) for line in range(*body)}
        chosen = {number: mutant for number, mutant in mutants if mutant.number - 1 in bodies}
        stillborn = set()
        while True:
            text, where = SWITCH.splitlines(), {}
            for index, line in enumerate(lines):
                body = bodies.get(index)
                if body is None:
                    text.append(line)
                elif index == body[0]:
                    text.append("switch (mutant_at_work) {")
                    for number, mutant in chosen.items():
                        if not body[0] < mutant.number <= body[1] or number in stillborn:
                            continue
                        text.append(f"case {number}: {{")
                        for inner in range(*body):
                            text.append(mutant.after if inner == mutant.number - 1 else lines[inner])
                            where[len(text)] = number
                        text.append("} break;")
                    text += ["default: {", *lines[slice(*body)], "}", "}"]
            (place / "mutants.cpp").write_text("\n".join(text) + "\n")
            problems = self.compile(str(place / "mutants.cpp"), place / "mutants.o")
            if not problems:
                break
            found = {where.get(int(line)) for line in re.findall(r"mutants\.cpp:(\d+):", problems)} - {None}
            if not found:
                sys.exit(problems)
            stillborn |= found
        self.link(place / "tests", place / "mutants.o", *self.test_objects(file))
        self.together[file] = (place / "tests", set(chosen), stillborn)
        begin = time.monotonic()
        if self.verdict(file, place / "tests", -1) != "survives":
            sys.exit(f"{' '.join(TESTS[file])}: fails without any change of {file}")
        self.patience[file] = 10 + 5 * (time.monotonic() - begin)

    def alone(self, number, file, text):
        """What becomes of `file` with this text, compiled for itself: stillborn, killed, or survives."""
        place = BUILD / f"mutants/{number}"
        is_header = file.endswith(".hpp")  # then it is the test that is compiled
        mutated = place / (pathlib.Path(file).relative_to("include") if is_header else pathlib.Path(file).name)
        mutated.parent.mkdir(parents=True, exist_ok=True)
        mutated.write_text(text)
        source = str(ROOT / f"tests/{TESTS[file][0]}.cpp") if is_header else str(mutated)
        if self.compile(source, place / "mutant.o", [place]):
            return "stillborn"
        self.link(place / "tests", place / "mutant.o",
                  *([] if is_header else map(object_of, TESTS[file])))
        try:
            return self.verdict(file, place / "tests", -1)
        finally:
            (place / "tests").unlink()

    def judge(self, number, mutant):
        program, numbers, stillborn = self.together[mutant.file]
        if number in stillborn:
            return "stillborn"
        if number in numbers:
            return self.verdict(mutant.file, program, number)
        lines = (ROOT / mutant.file).read_text().splitlines()
        lines[mutant.number - 1] = mutant.after
        return self.alone(number, mutant.file, "\n".join(lines) + "\n")


def main():
    options = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    options.add_argument("files", nargs="*")
    options.add_argument("--sample", type=int)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--part", help="such as 2/5: the second fifth of all mutants")
    options.add_argument("--build", help="a build of the dev preset to take the rest of the library from")
    options = options.parse_args()
    files = [file for file in TESTS if not options.files or any(file.endswith(end) for end in options.files)]
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    equivalents = listed_equivalents()
    gone = [key for key in equivalents - {key_of(mutant) for mutant in mutants} if key[0] in files]
    if options.sample and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    if options.part:
        part, parts = map(int, options.part.split("/"))
        mutants = mutants[len(mutants) * (part - 1) // parts:len(mutants) * part // parts]
    BUILD.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(pathlib.Path(options.build).resolve() if options.build else BUILD, options.jobs)
    numbered = [(number, mutant) for number, mutant in enumerate(mutants) if key_of(mutant) not in equivalents]
    for file in files:
        workshop.prepare(file, [(number, mutant) for number, mutant in numbered if mutant.file == file])

    counts = {file: collections.Counter() for file in files}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        def judge(numbered):
            return "equivalent" if key_of(numbered[1]) in equivalents else workshop.judge(*numbered)
        for mutant, outcome in zip(mutants, pool.map(judge, enumerate(mutants))):
            counts[mutant.file][outcome] += 1
            if outcome == "survives":
                print(f"{mutant.file}:{mutant.number}: survives\n- `` {mutant.before.strip()} `` becomes "
                      f"`` {mutant.after.strip()} ``: ", flush=True)
    for file, count in counts.items():
        alive = count["killed"] + count["survives"]
        rate = f"{100 * count['killed'] / alive:.0f} %" if alive else "-"
        print(f"{file}: {count['killed']} of {alive} killed ({rate}), {count['equivalent']} equivalent")
    for key in gone:
        print("survivors.md lists what is not there any more:", *key)
    survivors = sum(count["survives"] for count in counts.values())
    print(f"{sum(count['killed'] for count in counts.values())} killed, {survivors} survive")
    sys.exit(1 if survivors or gone else 0)


if __name__ == "__main__":
    main()
