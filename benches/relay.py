"""Measures what a proxy hop costs: bare relays, Ringcar on both engines, nginx and HAProxy, side by side.

Started by `scripts/bench relay`. Every contender of a scenario runs at once, idle while it is not its turn; rounds are
interleaved, so that what disturbs the machine disturbs all. Of a contender's rounds the lowest CPU time counts
(disturbance only adds), and the median of the rest.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROXY_CPU, CLIENT_CPU = "0", "1"
START_SECONDS = 10
REQUEST_BYTES = 200
INVOKE_PATH = "/v1.0/invoke/a/method/x"
BASELINE = "relay-uring"

# Connections that make one request each and stay open, and who is asked to hold them. HAProxy wants descriptors for
# twice as many, more than most machines grant.
IDLE_CONNECTIONS = 10_000
IDLE_CONTENDERS = ("ringcar-uring", "ringcar-epoll", "nginx")

# Name: hops over, connections, bytes of each answer's body, what it shows.
SCENARIOS = {
    "tcp-1": ("tcp", 1, 256, "small messages, 1 connection"),
    "tcp-32": ("tcp", 32, 256, "small messages, 32 connections"),
    "tcp-64": ("tcp", 64, 256, "small messages, 64 connections"),
    "tcp-8-1m": ("tcp", 8, 1024 * 1024, "bodies of 1 MiB, 8 connections"),
    "unix-32": ("unix", 32, 256, "small messages over Unix sockets, 32 connections"),
    "idle": ("tcp", 32, 256, f"small messages, 32 connections, beside {IDLE_CONNECTIONS:,} idle ones"),
}

NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    upstream app {{ server {app}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffers 32 64k; proxy_max_temp_file_size 0;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    http-reuse always
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend in
    bind {listen}
    default_backend app
backend app
    server app {app}
"""


class Unavailable(Exception):
    """This contender cannot take part, and why."""


class Contender:
    """A running proxy: where to call it, and the processes whose CPU time it costs."""

    def __init__(self, process, target, watched):
        self.process, self.target, self.watched = process, target, watched

    def stop(self):
        if self.process:
            stop(self.process)


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def pinned(cpu, *command):
    return ["taskset", "-c", cpu, *map(str, command)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def announced(process):
    """The address that one of our own tools prints as its first line."""
    line = process.stdout.readline().strip()
    if not line:
        process.wait()
        raise Unavailable(process.stderr.read().strip().split("\n")[0])
    return line


def connected(address):
    """A connection to 127.0.0.1:80 or unix:/path."""
    if address.startswith("unix:"):
        probe = socket.socket(socket.AF_UNIX)
        probe.connect(address.removeprefix("unix:"))
        return probe
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 1)


def await_address(address, process, log):
    """Waits until somebody accepts at `address`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            connected(address).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    stop(process)
    words = Path(log).read_text().strip().split("\n")
    raise Unavailable(f"does not start: {words[-1]}")


class Bench:
    def __init__(self, arguments):
        self.bin = Path(arguments.bin)
        self.seconds, self.warmup, self.rounds = arguments.seconds, arguments.warmup, arguments.rounds
        self.raw, self.absent = [], {}

    def address(self, kind, directory, name):
        return "127.0.0.1:0" if kind == "tcp" else f"unix:{directory}/{name}.sock"

    def start_origin(self, kind, directory, body_bytes):
        process = subprocess.Popen(
            pinned(CLIENT_CPU, self.bin / "ringcar-origin", "--listen", self.address(kind, directory, "origin"),
                   "--body-bytes", body_bytes),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        return process, announced(process)

    def start_direct(self, _name, _kind, _directory, origin):
        return Contender(None, origin, [])

    def start_relay(self, name, kind, directory, origin):
        # Ringcar's engine has a bare relay of its own, which shows what the rest of the data plane costs.
        program = [self.bin / name]
        if name.startswith("engine-"):
            program = [self.bin / "examples/relay", "--engine", name.removeprefix("engine-")]
        process = subprocess.Popen(
            pinned(PROXY_CPU, *program, "--listen", self.address(kind, directory, name), "--upstream", origin),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"RUST_BACKTRACE": "0"},
        )
        return Contender(process, announced(process), [process.pid])

    def start_server(self, command, target, log, environment=None):
        with open(log, "w") as output:
            process = subprocess.Popen(
                pinned(PROXY_CPU, *command), stdout=output, stderr=output, env=os.environ | (environment or {}),
            )
        await_address(target, process, log)
        return process

    def start_nginx(self, name, kind, directory, origin):
        program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if not program:
            raise Unavailable("not installed")
        target = f"127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{directory}/nginx.sock"
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(dir=directory, app=origin, listen=target))
        process = self.start_server([program, "-c", config], target, directory / "nginx.out")
        return Contender(process, target, [process.pid])

    def start_haproxy(self, name, kind, directory, origin):
        program = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
        if not program:
            raise Unavailable("not installed")
        target = f"127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{directory}/haproxy.sock"
        spelled = {"app": origin.replace("unix:", "unix@"), "listen": target.replace("unix:", "unix@")}
        config = directory / "haproxy.cfg"
        config.write_text(HAPROXY.format(**spelled))
        process = self.start_server([program, "-db", "-f", config], target, directory / "haproxy.out")
        return Contender(process, target, [process.pid])

    def start_ringcar(self, name, kind, directory, origin):
        home = directory / name
        home.mkdir()
        port = free_port()
        flags = ["--app-id", "a", "--dapr-grpc-port", free_port(), "--metrics-port", free_port(),
                 "--log-level", "warn", "--max-body-size", "16Mi"]
        if kind == "tcp":
            target = f"127.0.0.1:{port}"
            flags += ["--dapr-http-port", port, "--app-port", origin.rsplit(":", 1)[1]]
        else:
            target = f"unix:{home}/dapr-a-http.socket"
            flags += ["--dapr-http-port", port, "--unix-domain-socket", home, "--app-port", "1",
                      "--app-channel-address", origin]
        # One CPU to run on makes one worker.
        environment = {"RINGCAR_ENGINE": name.removeprefix("ringcar-"), "RINGCAR_RUNTIME_DIR": str(home)}
        log = home / "log"
        process = self.start_server([self.bin / "ringcar", "sidecar", *flags], target, log, environment)
        await_healthy(target, process, log)
        return Contender(process, target, data_planes(process.pid))

    def contenders(self):
        starts = {"direct": self.start_direct}
        starts |= {name: self.start_relay for name in
                   ("relay-uring", "relay-epoll", "relay-monoio", "relay-tokio-uring")}
        starts |= {name: self.start_relay for name in ("engine-uring", "engine-epoll")}
        starts |= {name: self.start_ringcar for name in ("ringcar-uring", "ringcar-epoll")}
        return starts | {"nginx": self.start_nginx, "haproxy": self.start_haproxy}

    def measure(self, contender, scenario):
        _, connections, body_bytes, _ = SCENARIOS[scenario]
        idle = IDLE_CONNECTIONS if scenario == "idle" else 0
        resident_before = sum(resident_kib(pid) for pid in contender.watched)
        # As long as the small request of the other proxies' benchmarks.
        padding = "x" * max(0, REQUEST_BYTES - 75)
        command = pinned(
            CLIENT_CPU, self.bin / "ringcar-load", "--target", contender.target, "--path", INVOKE_PATH,
            "--header", f"X-Padding: {padding}", "--connections", connections, "--duration", self.seconds,
            "--warmup", self.warmup, "--expect-bytes", body_bytes, "--connections-idle", idle,
        )
        for pid in contender.watched:
            command += ["--watch-pid", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + self.seconds)
        if done.returncode:
            raise Unavailable(done.stderr.strip().split("\n")[0])
        report = json.loads(done.stdout)
        if report["errors"]:
            raise Unavailable(f"{report['errors']} errors: {report['first_error']}")
        if idle:
            resident = sum(watched["resident_kib"] for watched in report["watched"])
            report["idle_bytes"] = (resident - resident_before) * 1024 / idle
        return report

    def run_scenario(self, scenario, only):
        kind, _, body_bytes, _ = SCENARIOS[scenario]
        if scenario == "idle":
            only = [name for name in IDLE_CONTENDERS if not only or name in only]
        directory = Path(tempfile.mkdtemp(prefix="ringcar-bench."))
        # nginx may run as another user than the one that started it.
        directory.chmod(0o755)
        origin_process, origin = self.start_origin(kind, directory, body_bytes)
        running = {}
        try:
            for name, start in self.contenders().items():
                if only and name not in only:
                    continue
                try:
                    running[name] = start(name, kind, directory, origin)
                except Unavailable as why:
                    self.leave_out(scenario, name, why)
            # Memory is what counts of the idle ones, and only the first round finds it untouched.
            for number in range(1 if scenario == "idle" else self.rounds):
                for name in list(running):
                    self.run_round(scenario, number, name, running)
        finally:
            for contender in running.values():
                contender.stop()
            stop(origin_process)
            shutil.rmtree(directory, ignore_errors=True)

    def run_round(self, scenario, number, name, running):
        try:
            report = self.measure(running[name], scenario)
        except Unavailable as why:
            self.leave_out(scenario, name, why)
            running.pop(name).stop()
            return
        self.raw.append({"scenario": scenario, "contender": name, "round": number} | report)
        print(f"{scenario} round {number + 1} {name}: {report['rps']:.0f} requests/s", file=sys.stderr)

    def leave_out(self, scenario, name, why):
        self.absent[scenario, name] = str(why)
        self.raw = [r for r in self.raw if (r["scenario"], r["contender"]) != (scenario, name)]
        print(f"{scenario} {name}: left out: {why}", file=sys.stderr)


def await_healthy(target, process, log):
    """Waits until Ringcar's sidecar has found its app."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with connected(target) as probe:
                probe.sendall(b"GET /v1.0/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if probe.recv(64).startswith(b"HTTP/1.1 2"):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    stop(process)
    raise Unavailable(f"is not healthy: {log.read_text().strip().splitlines()[-1:]}")


def data_planes(pid):
    """The data plane processes below a sidecar: they carry the requests."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"dataplane" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            found.append(int(child))
    if not found:
        raise Unavailable("its data plane process is not to be found")
    return found


def resident_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def summary(raw, scenario, name):
    rounds = [r for r in raw if r["scenario"] == scenario and r["contender"] == name]
    if not rounds:
        return None
    middle = {key: statistics.median(r[key] for r in rounds) for key in ("rps", "p50_us", "p99_us", "p999_us")}
    costs = [sum(w["cpu_us_per_request"] for w in r["watched"]) for r in rounds if r.get("watched")]
    memory = [sum(w["resident_kib"] for w in r["watched"]) for r in rounds if r.get("watched")]
    return middle | {"cpu_us": min(costs, default=None), "resident_kib": max(memory, default=None)}


def table(bench, scenario, names):
    title = SCENARIOS[scenario][3]
    lines = [f"### {title} (`{scenario}`)", "",
             f"| | CPU µs/request | × {BASELINE} | requests/s | p50 µs | p99 µs | p99.9 µs | resident MiB |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    base = summary(bench.raw, scenario, BASELINE)
    notes = []
    for name in names:
        row = summary(bench.raw, scenario, name)
        if row is None:
            if (scenario, name) in bench.absent:
                notes.append(f"{name} is not here: {bench.absent[scenario, name]}")
            continue
        cost = ratio = memory = "–"
        if row["cpu_us"] is not None:
            cost, memory = f"{row['cpu_us']:.2f}", f"{row['resident_kib'] / 1024:.1f}"
            if base:
                ratio = f"{row['cpu_us'] / base['cpu_us']:.2f}"
        lines.append(f"| {name} | {cost} | {ratio} | {row['rps']:,.0f} | {row['p50_us']:.1f} | {row['p99_us']:.0f} "
                     f"| {row['p999_us']:.0f} | {memory} |")
    for r in bench.raw:
        if r["scenario"] == scenario and "idle_bytes" in r:
            notes.append(f"{r['contender']}: {r['idle_bytes']:,.0f} bytes resident per idle connection")
    return "\n".join([*lines, "", *(f"{note}  " for note in notes), ""])


def machine():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().split("\n")
                  if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]}


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def write_results(bench, scenarios, arguments, before):
    when = datetime.datetime.now().astimezone()
    names = list(bench.contenders())
    text = "\n".join([
        f"# Relay ladder, {when:%Y-%m-%d %H:%M}, Linux {before['kernel']}", "",
        f"`scripts/bench relay` at {commit()}: {before['cpus']} CPUs, {before['cpu']}; load average before the run "
        f"{before['load']:.1f}. Proxy on CPU {PROXY_CPU}, client and app on CPU {CLIENT_CPU}; requests of about "
        f"{REQUEST_BYTES} bytes over keep-alive connections, closed loop; {bench.rounds} interleaved rounds of "
        f"{bench.seconds} s. CPU is the lowest of the rounds, the rest their median.", "",
        *(table(bench, scenario, names) for scenario in scenarios),
    ])
    print(text)
    if arguments.no_results:
        return
    directory = Path(__file__).parent / "results"
    directory.mkdir(exist_ok=True)
    name = directory / f"{when:%Y-%m-%d}-{before['kernel']}"
    name.with_name(name.name + ".md").write_text(text)
    absent = [{"scenario": s, "contender": n, "why": why} for (s, n), why in bench.absent.items()]
    document = {"machine": before, "commit": commit(), "rounds": bench.rounds, "measured": bench.raw, "absent": absent}
    name.with_name(name.name + ".json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"written to {name}.md and .json", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="directory of the built programs")
    parser.add_argument("--profile", help="cargo profile; `scripts/bench` builds it")
    parser.add_argument("--quick", action="store_true", help="two short rounds: a look, not a measurement")
    parser.add_argument("--seconds", type=float, help="length of a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help="contenders, with commas between them")
    parser.add_argument("--scenario", help="scenarios, with commas between them: " + ", ".join(SCENARIOS))
    parser.add_argument("--no-results", action="store_true", help="only prints the tables")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (0.35 if arguments.quick else 1.0)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 3)
    arguments.warmup = 0.1 if arguments.quick else 0.15
    if (os.cpu_count() or 1) < 2:
        sys.exit("error: the proxy and its client need a CPU each; this machine has one")
    scenarios = arguments.scenario.split(",") if arguments.scenario else list(SCENARIOS)
    if unknown := set(scenarios) - set(SCENARIOS):
        sys.exit(f"error: no scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    bench, before = Bench(arguments), machine()
    only = arguments.only.split(",") if arguments.only else None
    if only and (unknown := set(only) - set(bench.contenders())):
        sys.exit(f"error: no contender {', '.join(unknown)}; there are: {', '.join(bench.contenders())}")
    for scenario in scenarios:
        bench.run_scenario(scenario, only)
    write_results(bench, scenarios, arguments, before)


if __name__ == "__main__":
    main()
