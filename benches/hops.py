"""Measures what an invoke costs by TCP, past TCP and over Unix sockets, beside bare relays, in one run.

Started by `scripts/bench hops`, as root: the ways past TCP take programs in the kernel. Everything is as in `relay.py`,
but for these: the client is in the control group of the app that calls, and CPU is that of the proxy and, in a
column of its own, of proxy and app together, since work moves between them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from relay import CLIENT_CPU, INVOKE_PATH, REQUEST_BYTES, Bench, Contender, Unavailable
from relay import data_planes, free_port, pinned, stop

# Name: connections, bytes of each answer's body.
SCENARIOS = {"1": (1, 256), "32": (32, 256), "8-64k": (8, 64 * 1024), "8-1m": (8, 1024 * 1024)}
BASELINE = "relay-uring, TCP"


def groups():
    """Where control groups of version 2 are."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    raise Unavailable("no cgroup v2")


class Hops(Bench):
    def __init__(self, arguments):
        super().__init__(arguments)
        self.group = groups() / f"ringcar-bench-{os.getpid()}"

    def within(self, name, command):
        """The command, started in a group."""
        group = self.group / name
        group.mkdir(parents=True, exist_ok=True)
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        return ["sh", "-c", script, "sh", *map(str, command)]

    def start_node(self, accelerate, directory, origin):
        home = directory / f"node-{accelerate}"
        home.mkdir()
        port, group = free_port(), f"/{self.group.name}/app"
        (self.group / "app").mkdir(parents=True, exist_ok=True)
        config = home / "node.yaml"
        config.write_text(
            f"name: {self.group.name}-{accelerate}\nenable-metrics: false\nlog-level: warn\nsteering: on\n"
            f"steering-cgroup: /{self.group.name}\naccelerate: {accelerate}\n"
            "defaults: {listen-addresses: 127.0.0.1, max-body-size: 16Mi}\n"
            f"apps: [{{id: a, cgroup: {group}, http-port: {port}, address: {origin.rsplit(':', 1)[1]}}}]\n"
        )
        environment = {"RINGCAR_ENGINE": "uring", "RINGCAR_RUNTIME_DIR": str(home)}
        log, target = home / "log", f"127.0.0.1:{port}"
        command = self.within("node", [self.bin / "ringcar", "node", "--config", config])
        process = self.start_server(command, target, log, environment)
        # The API is the app's alone, so it is asked from its group.
        probe = f"until curl -sf http://{target}/v1.0/healthz; do sleep 0.05; done"
        asking = self.within("app", ["timeout", "10", "sh", "-c", probe])
        if subprocess.run(asking, stdout=subprocess.DEVNULL).returncode:
            stop(process)
            raise Unavailable(f"is not healthy: {log.read_text().strip().splitlines()[-1:]}")
        return Contender(process, target, data_planes(process.pid))

    def start_all(self, directory, tcp, unix):
        unix_home = directory / "unix"
        unix_home.mkdir()
        starts = {
            BASELINE: lambda: self.start_relay("relay-uring", "tcp", directory, tcp),
            "relay-uring, Unix": lambda: self.start_relay("relay-uring", "unix", directory, unix),
            "ringcar, TCP": lambda: self.start_node("off", directory, tcp),
            "ringcar, past TCP": lambda: self.start_node("on", directory, tcp),
            "ringcar, Unix": lambda: self.start_ringcar("ringcar-uring", "unix", unix_home, unix),
        }
        for name, start in starts.items():
            try:
                yield name, start()
            except Unavailable as why:
                print(f"{name}: left out: {why}", file=sys.stderr)

    def load(self, contender, origin_pid, connections, body_bytes):
        padding = "x" * max(0, REQUEST_BYTES - 75)
        command = pinned(
            CLIENT_CPU, self.bin / "ringcar-load", "--target", contender.target, "--path", INVOKE_PATH,
            "--header", f"X-Padding: {padding}", "--connections", connections, "--duration", self.seconds,
            "--warmup", self.warmup, "--expect-bytes", body_bytes, "--connections-idle", 0,
        )
        for pid in [*contender.watched, origin_pid]:
            command += ["--watch-pid", str(pid)]
        done = subprocess.run(self.within("app", command), capture_output=True, text=True, timeout=60 + self.seconds)
        if done.returncode:
            raise Unavailable(done.stderr.strip().split("\n")[0])
        report = json.loads(done.stdout)
        if report["errors"]:
            raise Unavailable(f"{report['errors']} errors: {report['first_error']}")
        return report

    def run(self, scenario, connections, body_bytes):
        directory = Path(tempfile.mkdtemp(prefix="ringcar-bench."))
        tcp_process, tcp = self.start_origin("tcp", directory, body_bytes)
        unix_process, unix = self.start_origin("unix", directory, body_bytes)
        running = {}
        try:
            for name, contender in self.start_all(directory, tcp, unix):
                running[name] = contender
            for number in range(self.rounds):
                for name, contender in running.items():
                    origin = unix_process if "Unix" in name else tcp_process
                    report = self.load(contender, origin.pid, connections, body_bytes)
                    self.raw.append({"scenario": scenario, "contender": name, "round": number} | report)
                    print(f"{scenario} round {number + 1} {name}: {report['rps']:.0f} requests/s", file=sys.stderr)
        finally:
            for contender in running.values():
                contender.stop()
            stop(tcp_process)
            stop(unix_process)
            shutil.rmtree(directory, ignore_errors=True)

    def end(self):
        for name in ("app", "node"):
            for group in [*(self.group / name).glob("*/"), self.group / name]:
                if group.is_dir():
                    group.rmdir()
        if self.group.is_dir():
            self.group.rmdir()


def row(raw, base):
    """Of CPU the least, of the rest the median; a round that the machine had no time for tells nothing."""
    raw = [r for r in raw if r["rps"]] or raw
    proxy = min(sum(w["cpu_us_per_request"] for w in r["watched"][:-1]) for r in raw)
    both = min(sum(w["cpu_us_per_request"] for w in r["watched"]) for r in raw)
    p50 = statistics.median(r["p50_us"] for r in raw)
    rps = statistics.median(r["rps"] for r in raw)
    ratio = proxy / base if base else 1.0
    return proxy, f"{proxy:.2f} | {ratio:.2f} | {both:.2f} | {p50:.1f} | {rps:,.0f} |"


def tell(bench):
    for scenario, (connections, body_bytes) in SCENARIOS.items():
        found = [r for r in bench.raw if r["scenario"] == scenario]
        if not found:
            continue
        print(f"\n{connections} connections, answers of {body_bytes:,} bytes\n")
        print(f"| | CPU µs per request, proxy | × {BASELINE} | proxy and app | p50 µs | requests/s |")
        print("|---|---:|---:|---:|---:|---:|")
        base = None
        for name in dict.fromkeys(r["contender"] for r in found):
            cost, text = row([r for r in found if r["contender"] == name], base)
            base = base or (cost if name == BASELINE else None)
            print(f"| {name} | {text}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--profile")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenario", help="NAME,… of " + ", ".join(SCENARIOS))
    arguments = parser.parse_args()
    wanted = arguments.scenario.split(",") if arguments.scenario else list(SCENARIOS)
    bench = Hops(arguments)
    try:
        for scenario in wanted:
            bench.run(scenario, *SCENARIOS[scenario])
    finally:
        bench.end()
    tell(bench)


if __name__ == "__main__":
    main()
