"""Measures what control and the data plane keep resident, mapping by mapping, as the kernel counts it.

Started by `scripts/bench memory`. A sidecar with one app; a node of many apps whose APIs are Unix sockets and that take no
calls; a node of many apps with a TCP port each, all of them called. The numbers are those of `/proc/PID/smaps`: resident (Rss)
counts every page the process has mapped in, its share (Pss) divides a page by the processes that have it.

The kernel maps pages of a file around one that is touched as far as its cache has them, so how much of the executable is
resident depends on what else happened to it. Here a copy that was just written is run: all of it is cached, which is the
worst case, by a megabyte. Ends with status 1 when a bound is missed, or when apps that come and go leave something.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

START_SECONDS = 30
# The app through which all others are called.
CALLER = "a-caller"

# MB that may be resident: of docs/performance.md.
CONTROL_MAX, DATA_PLANE_MAX, SIDECAR_MAX = 14.0, 8.0, 20.0

# What may be there after the last turn over what was there after half of them: the first few find room between what stays.
GROWTH_MAX = 1.03
# With fewer turns the middle one is still among those.
TURNS_JUDGED_MIN = 10

# In this order in the tables. What a mapping is, by its name and its rights.
KINDS = ("heap", "anonymous", "stacks", "rings", "executable: code", "executable: constants", "executable: data", "libraries")


class Origin:
    """An app: answers 200 to every request, on connections that stay open."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    @staticmethod
    def serve(connection):
        waiting = b""
        with connection, contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                waiting += chunk
                while b"\r\n\r\n" in waiting:
                    _, waiting = waiting.split(b"\r\n\r\n", 1)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Ringcar:
    """A control process and its data plane, in a runtime directory of their own."""

    def __init__(self, executable, place, arguments):
        environment = {"PATH": os.environ["PATH"], "HOME": str(place), "RINGCAR_RUNTIME_DIR": str(place / "run")}
        self.log_path = place / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [executable, *arguments], env=environment, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_for(self, text, count=1):
        """Until the log has said it so many times."""
        deadline = time.monotonic() + START_SECONDS
        while self.log_path.read_text(errors="replace").count(text) < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"error: {text!r} was not said; the log:\n{self.log_path.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)

    def pids(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {"control": self.process.pid, "data plane": int(children[0])}

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()


def kind_of(rights, name, executable, is_after_executable):
    if name == executable:
        return {"x": "executable: code", "w": "executable: data"}.get(
            "x" if "x" in rights else "w" if "w" in rights else "", "executable: constants"
        )
    if name == "[heap]":
        return "heap"
    if name.startswith("[stack"):
        return "stacks"
    if "io_uring" in name:
        return "rings"
    if name.startswith("/"):
        return "libraries"
    # The part of `.bss` that no file stands behind follows the executable's last mapping.
    return "executable: data" if is_after_executable else "anonymous"


def measure(pid):
    """Of each kind of mapping: resident KiB, and of those what is this process's alone to answer for."""
    executable = os.readlink(f"/proc/{pid}/exe")
    kinds = {kind: [0, 0, 0] for kind in KINDS}
    head = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)$")
    kind, end_of_executable = None, None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := head.match(line):
            start, end, rights, name = found.groups()
            kind = kind_of(rights, name, executable, not name and start == end_of_executable)
            if name == executable:
                end_of_executable = end
        elif line.startswith(("Rss:", "Pss:", "Private_Dirty:")):
            key, value, _ = line.split()
            kinds[kind][("Rss:", "Pss:", "Private_Dirty:").index(key)] += int(value)
    return kinds


def total(kinds):
    return [sum(row[column] for row in kinds.values()) for column in range(3)]


def megabytes(kib):
    return f"{kib * 1024 / 1e6:.2f}"


missed = []


def bound(what, value, limit):
    verdict = "within" if value <= limit else "MISSES"
    print(f"\n{what}: {value:.2f} MB, {verdict} {limit:.2f}")
    if value > limit:
        missed.append(what)


def tell(title, ringcar, details):
    """Resident MB by process."""
    resident = {}
    print(f"\n### {title}\n")
    print("| MB | resident | its share | private and written |\n|---|---:|---:|---:|")
    for role, pid in ringcar.pids().items():
        kinds = measure(pid)
        resident[role] = total(kinds)[0] * 1024 / 1e6
        print(f"| **{role}** | " + " | ".join(f"**{megabytes(value)}**" for value in total(kinds)) + " |")
        if details:
            for kind, row in kinds.items():
                print(f"| {role}: {kind} | " + " | ".join(map(megabytes, row)) + " |")
    sys.stdout.flush()
    return resident


def api_port(place, app):
    """Where the app's API is, by its registry entry. A port that was chosen beforehand may be another's by then."""
    for path in (place / "run" / "apps").glob("*.json"):
        entry = json.loads(path.read_text())
        if entry["id"] == app:
            return int(entry["api"]["Tcp"].rsplit(":", 1)[1])
    sys.exit(f"error: {app} is not registered")


def call(connection, path):
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def call_each(port, ids):
    """Through the caller's API; waits for those that are not served yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for app in ids:
        deadline = time.monotonic() + START_SECONDS
        while (answer := call(connection, f"/v1.0/invoke/{app}/method/x"))[0] != 200:
            if time.monotonic() > deadline:
                sys.exit(f"error: {app} is not served: {answer}")
            time.sleep(0.05)
    connection.close()


def node_file(place, apps):
    head = "name: bench\nenable-metrics: true\nmetrics-port: 0\nsteering: off\napps:\n"
    caller = f"- {{id: {CALLER}, http-port: 0, listen-addresses: 127.0.0.1}}\n"
    path = place / "node.yaml"
    path.with_suffix(".new").write_text(head + caller + "".join(apps))
    path.with_suffix(".new").rename(path)
    return path


@contextlib.contextmanager
def started(executable, place, arguments):
    ringcar = Ringcar(executable, place, arguments)
    try:
        yield ringcar
    finally:
        ringcar.end()


@contextlib.contextmanager
def directory():
    place = Path(tempfile.mkdtemp(prefix="ringcar-memory-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def sidecar(executable, origin, options):
    arguments = ["sidecar", "--app-id", CALLER, "--app-port", str(origin.port), "--dapr-http-port", "0"]
    arguments += ["--dapr-listen-addresses", "127.0.0.1", "--metrics-port", "0"]
    with directory() as place, started(executable, place, arguments) as ringcar:
        ringcar.wait_for("dapr initialized. Status: Running.")
        settle(ringcar)
        resident = tell("A sidecar after start", ringcar, options.details)
        bound("data plane after start", resident["data plane"], DATA_PLANE_MAX)
        bound("sidecar, both processes", sum(resident.values()), SIDECAR_MAX)
        call_each(api_port(place, CALLER), [CALLER])
        settle(ringcar)
        tell("The same after a call", ringcar, options.details)


def quiet_node(executable, _origin, options):
    with directory() as place:
        sockets = place / "sockets"
        sockets.mkdir()
        apps = [f"- {{id: app-{n}, unix-domain-socket: {sockets}}}\n" for n in range(options.apps)]
        path = node_file(place, apps)
        with started(executable, place, ["node", "--config", str(path)]) as ringcar:
            ringcar.wait_for(f"Node bench serves {options.apps + 1} apps")
            settle(ringcar)
            title = f"A node of {options.apps:,} apps on Unix sockets that take no calls"
            resident = tell(title, ringcar, options.details)
            bound("control with apps that take no calls", resident["control"], CONTROL_MAX)


def busy_node(executable, origin, options):
    ids = [f"app-{n}" for n in range(options.apps)]
    apps = [f"- {{id: {id}, http-port: 0, listen-addresses: 127.0.0.1, address: {origin.port}}}\n" for id in ids]
    with directory() as place:
        path = node_file(place, apps)
        with started(executable, place, ["node", "--config", str(path)]) as ringcar:
            ringcar.wait_for(f"Node bench serves {options.apps + 1} apps")
            settle(ringcar)
            tell(f"A node of {options.apps:,} apps with ports", ringcar, options.details)
            caller = api_port(place, CALLER)
            call_each(caller, ids)
            settle(ringcar)
            resident = tell("The same after each was called", ringcar, options.details)
            bound("control with apps that take calls", resident["control"], CONTROL_MAX)
            middle = {}
            shown = {1, 2, options.turns // 2, options.turns}
            for turn in range(1, options.turns + 1):
                node_file(place, [])
                ringcar.wait_for("Node's file reloaded: 1 apps", turn)
                settle(ringcar)
                if turn in shown:
                    resident = tell(f"Without them, turn {turn}", ringcar, options.details)
                    if turn <= max(1, options.turns // 2):
                        middle = resident
                node_file(place, apps)
                ringcar.wait_for(f"Node's file reloaded: {options.apps + 1} apps", turn)
                call_each(caller, ids)
                settle(ringcar)
                if turn in shown:
                    again = tell(f"All of them again, called, turn {turn}", ringcar, options.details)
            if options.turns:
                bound("control with apps that went and came back", again["control"], CONTROL_MAX)
            for role, was in middle.items() if options.turns >= TURNS_JUDGED_MIN else ():
                bound(f"{role} without apps, last turn over half of them", resident[role], was * GROWTH_MAX)


def settle(ringcar):
    """Until neither process has used the CPU for half a second."""

    def ticks(pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    deadline = time.monotonic() + START_SECONDS
    before, since = None, time.monotonic()
    while time.monotonic() < deadline:
        now = [ticks(pid) for pid in ringcar.pids().values()]
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > 0.5:
            return
        time.sleep(0.1)
    sys.exit("error: the processes do not come to rest")


SCENARIOS = {"sidecar": sidecar, "quiet": quiet_node, "busy": busy_node}


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--executable", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--profile", help="cargo profile; `scripts/bench` builds it")
    parser.add_argument("--apps", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=0, help="how often all apps go and come back")
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    parser.add_argument("--details", action="store_true", help="by mapping")
    options = parser.parse_args()
    origin = Origin()
    with directory() as place:
        executable = place / "ringcar"
        shutil.copy(options.executable, executable)
        with executable.open("rb") as file:
            os.fsync(file)
        for name in options.only or SCENARIOS:
            SCENARIOS[name](str(executable), origin, options)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
