"""Counts the instructions that a worker spends on a call, and where, the same from run to run whatever the load.

Started by `scripts/bench instructions`. Callgrind runs the program `calls` while its worker turns; the engine beneath it
is made of memory, so that nothing of the kernel, and of the client and the app as little as can be told apart, is in it.
"""

import argparse
import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What stands for kernel, client and app.
OUTSIDE = "MemoryEngine"
ALLOCATING = ("malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign")


class Profile:
    """Costs and calls of a callgrind file, by function."""

    def __init__(self, text):
        self.names = {}
        self.cost, self.inclusive, self.calls = (collections.Counter() for _ in range(3))
        function = called = None
        is_call = False
        for line in text.splitlines():
            if line.startswith("fn="):
                function = self.name(line[3:])
            elif line.startswith("cfn="):
                called = self.name(line[4:])
            elif line.startswith("calls="):
                self.calls[called] += int(line[6:].split()[0])
                is_call = True
            elif re.match(r"[+\-*\d]", line):
                instructions = int(line.split()[1])
                if is_call:
                    self.inclusive[called] += instructions
                else:
                    self.cost[function] += instructions
                is_call = False

    def name(self, text):
        number, name = re.match(r"\((\d+)\)(?: (.*))?$", text).groups()
        if name:
            # Callgrind tells recursions apart by a suffix.
            self.names[number] = re.sub(r"'\d+$", "", name)
        return self.names[number]


def profile(program, arguments, calls):
    """Of as many calls as warm up and as are made: the first ones are cold, and so this is less than exact."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        subprocess.run(
            ["valgrind", "--quiet", "--tool=callgrind", "--collect-atstart=no",
             "--toggle-collect=*WorkerProbe*turn*", f"--callgrind-out-file={out}",
             program, "--calls", str(calls), *arguments],
            check=True, stdout=subprocess.DEVNULL,
        )
        return Profile(out.read_text())


def difference(program, arguments, calls):
    """Per call what more calls cost more, so that what is done once does not count."""
    few, many = (profile(program, arguments, count) for count in (calls, 2 * calls))
    # Each run makes as many calls again to warm up.
    per_call = {}
    for kind in ("cost", "inclusive", "calls"):
        now, before = getattr(many, kind), getattr(few, kind)
        per_call[kind] = {name: (now[name] - before[name]) / (2 * calls) for name in now}
    return per_call["cost"], per_call["inclusive"], per_call["calls"]


def report(cost, inclusive, calls, title, functions):
    own = {name: count for name, count in cost.items() if OUTSIDE not in name}
    allocations = sum(calls.get(name, 0) for name in ALLOCATING)
    # With what it calls: it fills, copies and gives back buffers as a kernel would.
    outside = sum(count for name, count in inclusive.items() if OUTSIDE in name)
    print(f"{title}: {sum(cost.values()) - outside:,.0f} instructions a call, "
          f"{outside:,.0f} more in what stands for the kernel; {allocations:.3f} allocations a call")
    for name, count in sorted(own.items(), key=lambda item: -item[1])[:functions]:
        print(f"  {count:7,.0f}  {name[:110]}")
    return allocations


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="directory of the built programs")
    parser.add_argument("--profile", help="cargo profile; `scripts/bench` builds it")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--functions", type=int, default=25, help="how many to list")
    arguments = parser.parse_args()
    program = Path(arguments.bin) / "calls"
    allocations = 0
    for title, options, functions in (
        ("1 connection", ["--connections", "1"], 0),
        ("8 connections, nothing told", ["--connections", "8", "--silent"], 0),
        ("8 connections", ["--connections", "8"], arguments.functions),
    ):
        allocations += report(*difference(program, options, arguments.calls), title, functions)
    # A warm worker allocates nothing; a table that doubles once in a while may.
    if allocations > 0.05:
        sys.exit("error: a warm worker allocates")


main()
