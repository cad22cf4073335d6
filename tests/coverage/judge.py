#!/usr/bin/env python3
"""Reads llvm-cov's export of the pure cores and names every line and branch that no test runs, but for those that
exclusions.md lists. Fails when there are any, when a core is not in the export, or when an exclusion is not needed
(but for those that a race decides).

usage: judge.py COVERAGE.json
"""
import collections
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def exclusions():
    """{(file, kind, text of the line)} of exclusions.md: `- KIND `` text ``: why` below `## file`, and those of them
    that a race decides: now and then they are run."""
    listed, by_chance, file, why = set(), set(), None, ""
    for line in (HERE / "exclusions.md").read_text().splitlines():
        if line.startswith("## "):
            file = line[3:]
        elif entry := re.match(r"- (line|true|false) `` (.*?) ``: (.*)", line):
            key = file, entry[1], entry[2]
            listed.add(key)
            why = why if entry[3].startswith("as above") else entry[3]
            if why.startswith("only "):
                by_chance.add(key)
    return listed, by_chance


def lines_of(segments):
    """{line: runs} of a file's segments, as llvm-cov counts lines: by the regions that begin on or cover them."""
    counts, wrapped = {}, None
    by_line = collections.defaultdict(list)
    for line, _, count, has_count, is_entry, is_gap in segments:
        by_line[line].append((count, has_count, is_entry, is_gap))
    if not by_line:
        return counts
    for line in range(min(by_line), max(by_line) + 1):
        here = by_line[line]
        entries = [segment for segment in here if segment[1] and segment[2] and not segment[3]]
        starts_skipped = bool(here) and not here[0][1] and here[0][2]
        mapped = not starts_skipped and ((wrapped is not None and wrapped[1]) or bool(entries))
        if mapped:
            runs = [segment[0] for segment in entries]
            if wrapped is not None and wrapped[1] and not wrapped[3]:
                runs.append(wrapped[0])
            if runs:
                counts[line] = max(runs)
        if here:
            wrapped = here[-1]
    return counts


def branches_of(file):
    """{(line, column): [true, false]} over all instances of templates."""
    counts = collections.defaultdict(lambda: [0, 0])
    for branch in file["branches"]:
        line, column, _, _, taken, not_taken = branch[:6]
        counts[line, column][0] += taken
        counts[line, column][1] += not_taken
    return counts


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    files = {str(pathlib.Path(file["filename"]).relative_to(ROOT)): file
             for file in json.loads(pathlib.Path(sys.argv[1]).read_text())["data"][0]["files"]}
    cores = [line for line in (HERE / "cores.txt").read_text().splitlines() if not line.startswith("#")]
    (excluded, by_chance), needed, failed = exclusions(), set(), False
    for core in cores:
        if core not in files:
            print(f"{core}: no code of it was built")
            failed = True
            continue
        text = [""] + (ROOT / core).read_text().splitlines()
        lines, branches, left = lines_of(files[core]["segments"]), branches_of(files[core]), []
        for number, runs in sorted(lines.items()):
            if runs == 0:
                left.append((number, "line"))
        for (number, _), (taken, not_taken) in sorted(branches.items()):
            left += [(number, kind) for kind, count in (("true", taken), ("false", not_taken)) if count == 0]
        for number, kind in left:
            key = core, kind, text[number].strip()
            needed.add(key)
            if key not in excluded:
                print(f"{core}:{number}: " + ("never run" if kind == "line" else f"never {kind}") + f"\n- {kind} `` "
                      f"{key[2]} ``: ")
                failed = True
        bad_lines = sum(kind == "line" for _, kind in left)
        print(f"{core}: {len(lines) - bad_lines} of {len(lines)} lines, {2 * len(branches) - len(left) + bad_lines} of "
              f"{2 * len(branches)} branches")
    texts = {core: {line.strip() for line in (ROOT / core).read_text().splitlines()} for core in cores}
    gone = {key for key in excluded if key[2] not in texts.get(key[0], set())}
    for key in sorted((excluded - needed - by_chance) | gone):
        print("exclusions.md lists what is run, or not there any more:", *key)
        failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
