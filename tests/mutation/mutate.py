#!/usr/bin/env python3
"""Do the tests notice when the logic changes? Changes one operator, constant, condition or statement of a pure core at
a time, compiles that file alone, and runs the core's own tests, which should fail. Survivors are to be killed by a test,
or to be listed in survivors.md with the reason why no test can. Writes only below build/mutation.

usage: mutate.py [--sample N] [--seed S] [--jobs J] [FILE...]     (files by the end of their names)
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
TESTS = {  # which test is to notice
    "src/core/backoff.cpp": "core/backoff_test",
    "src/resilience/call_window.cpp": "resilience/call_window_test",
    "src/resilience/circuit_core.cpp": "resilience/circuit_core_test",
    "src/resilience/latency_histogram.cpp": "resilience/latency_histogram_test",
    "src/resilience/limit_core.cpp": "resilience/limit_core_test",
    "src/resilience/rate_core.cpp": "resilience/rate_limiter_test",
    "src/resilience/retry_budget.cpp": "resilience/retry_budget_test",
    "include/cofferdam/resilience/detail/cache_table.hpp": "resilience/cache_table_test",
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

class Workshop:
    """Everything built but the file at work."""

    def __init__(self, files, jobs):
        sources = {TESTS[file]: f"tests/CMakeFiles/cofferdam_{TESTS[file].split('/')[0]}_tests.dir/{TESTS[file]}.cpp.o"
                   for file in files}
        run = lambda *command: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        run("cmake", "--preset", "dev", "-B", str(BUILD), "-DCMAKE_UNITY_BUILD=OFF", "-DCOFFERDAM_BUILD_EXAMPLES=OFF")
        run("cmake", "--build", str(BUILD), "-j", str(jobs), "--target", "cofferdam_resilience",
            "cofferdam_test_support", *sources.values())
        self.objects = sources
        self.commands = {entry["file"]: entry["command"].split()
                         for entry in json.loads((BUILD / "compile_commands.json").read_text())}
        self.patience = {}

    def outcome(self, file, text, number):
        """What becomes of `file` with this text: stillborn, killed, or survives."""
        place = BUILD / f"mutants/{number}"
        place.mkdir(parents=True, exist_ok=True)
        test = str(ROOT / f"tests/{TESTS[file]}.cpp")
        is_header = file.endswith(".hpp")  # then it is the test that is compiled
        mutated = place / (pathlib.Path(file).relative_to("include") if is_header else pathlib.Path(file).name)
        mutated.parent.mkdir(parents=True, exist_ok=True)
        mutated.write_text(text)
        source = test if is_header else str(ROOT / file)
        command = self.commands[source]
        # What reaches beyond its memory shall not survive by luck.
        command = [command[0], "-fsanitize=address", f"-I{place}", *command[1:command.index("-o")], "-g0", "-w", "-c",
                   source if is_header else str(mutated), "-o", str(place / "mutant.o")]
        objects = [] if is_header else [BUILD / self.objects[TESTS[file]]]
        link = [*command[:2], place / "mutant.o", *objects,
                *(BUILD / "tests/CMakeFiles/cofferdam_test_support.dir/support").glob("*.o"),
                BUILD / "libcofferdam_resilience.a", BUILD / "libcofferdam_core.a", "-pthread", "-o", place / "tests"]
        for step in (command, link):
            if subprocess.run(step, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
                return "stillborn"
        try:
            ended = subprocess.run([place / "tests", "--abort"], cwd=place, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, timeout=self.patience.get(file, 300))
            return "survives" if ended.returncode == 0 else "killed"
        except subprocess.TimeoutExpired:
            return "killed"
        finally:
            (place / "tests").unlink()

    def check(self, file):
        """The tests must pass on the file as it is; how long they take says when a mutant hangs."""
        begin = time.monotonic()
        if self.outcome(file, (ROOT / file).read_text(), "none") != "survives":
            sys.exit(f"{TESTS[file]} fails without any change of {file}")
        self.patience[file] = 10 + 5 * (time.monotonic() - begin)

    def judge(self, number, mutant):
        lines = (ROOT / mutant.file).read_text().splitlines()
        lines[mutant.number - 1] = mutant.after
        return self.outcome(mutant.file, "\n".join(lines) + "\n", number)


def main():
    options = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    options.add_argument("files", nargs="*")
    options.add_argument("--sample", type=int)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options = options.parse_args()
    files = [file for file in TESTS if not options.files or any(file.endswith(end) for end in options.files)]
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    equivalents = listed_equivalents()
    gone = [key for key in equivalents - {key_of(mutant) for mutant in mutants} if key[0] in files]
    if options.sample and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    workshop = Workshop(files, options.jobs)
    for file in files:
        workshop.check(file)

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
