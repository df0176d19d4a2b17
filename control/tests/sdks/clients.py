"""Real clients of Dapr against sidecars that were started as `dapr run` starts daprd.

usage: clients.py --ringcar PATH [--python PATH] [--node-modules DIR] [--jars DIR] [CLIENT…]

A client that is not named is not run. Each makes the calls of calls.json through its own API and prints what that gave
back; what is right is decided here, once for all. Rounds: without a token, with the right one, with a wrong one.
"""

import argparse
import base64
import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from place import HERE, Place

CALLS = HERE / "calls.json"
ALL_BYTES = bytes(range(256))
CLIENT_SECONDS = 120
TOKEN = "a token, with a comma and 'quotes'"
APP_TOKEN = "the app's"

# What a client cannot do by its own making, whoever answers.
IMPOSSIBLE = {("javascript", "binary answer"): "its SDK reads every answer as text"}


def client_commands(options):
    return {
        "python": [options.python, HERE / "client.py", CALLS],
        "javascript": ["node", HERE / "client.mjs", CALLS],
        "java": ["java", "-cp", f"{options.jars}/*", HERE / "Client.java", CALLS],
        "dotnet": [sys.executable, HERE / "recorded.py", "dotnet", CALLS],
        "php": [sys.executable, HERE / "recorded.py", "php", CALLS],
        "cli": [sys.executable, HERE / "recorded.py", "cli", CALLS],
    }


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def row(self, name, problem):
        if problem is None:
            self.passed += 1
            return
        self.failed += 1
        print(f"FAILED  {name}: {problem}")


def run_client(command, port, token, options):
    environment = os.environ | {
        "DAPR_HTTP_PORT": str(port),
        "DAPR_HTTP_ENDPOINT": f"http://127.0.0.1:{port}",
        "NODE_MODULES": str(options.node_modules),
    }
    environment.pop("DAPR_API_TOKEN", None)
    if token:
        environment["DAPR_API_TOKEN"] = token
    command = [str(part) for part in command]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=CLIENT_SECONDS, text=True)
    rows = {}
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            rows[row["name"]] = row
    return rows, done.stderr[-2000:] if done.returncode else None


def problem(call, row):
    """What is wrong with what came back, if anything."""
    if row is None:
        return "the client did not make this call"
    want, body = call["want"], base64.b64decode(row["body"])
    if row["status"] != want["status"]:
        return f"status {row['status']} instead of {want['status']}: {body[:300]!r}"
    if want.get("allBytes") and body != ALL_BYTES:
        return f"other bytes came back: {body[:300]!r}"
    if "json" in want and json.loads(body) != want["json"]:
        return f"body {body!r}"
    if "echo" in want:
        seen = json.loads(body)
        token = APP_TOKEN if seen["app"] == "callee of prod" else None
        return echo_problem(want["echo"] | {"token": token}, seen)
    return None


def echo_problem(want, seen):
    sent = base64.b64decode(seen["bodyBase64"])
    for key, value in want.items():
        if key == "allBytes":
            is_right = sent == ALL_BYTES
        elif key == "text":
            # A client that takes values, not text, spaces them as it likes.
            is_right = json.loads(sent) == json.loads(value)
        elif key == "contentType":
            is_right = seen[key].split(";")[0] == value
        else:
            is_right = seen[key] == value
        if not is_right:
            return f"the app saw another {key}: {seen}"
    return None


def round_of_calls(name, command, port, token, options, report):
    calls = json.loads(CALLS.read_text())
    client = name.split()[0]
    rows, failure = run_client(command, port, token, options)
    report.row(f"{name}: the client itself", failure)
    for call in calls:
        if (client, call["name"]) not in IMPOSSIBLE:
            report.row(f"{name}: {call['name']}", problem(call, rows.get(call["name"])))


def refused(port, headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1.0/invoke/callee/method/echo", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return f"answered with {answer.status}"
    except urllib.error.HTTPError as error:
        seen = (error.code, error.headers["content-type"], error.read())
        want = (401, "text/plain; charset=utf-8", b"invalid api token\n")
        return None if seen == want else f"refused with {seen}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ringcar", type=Path, required=True)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--node-modules", type=Path)
    parser.add_argument("--jars", type=Path)
    parser.add_argument("clients", nargs="*")
    options = parser.parse_args()
    commands = client_commands(options)
    report = Report()
    with contextlib.ExitStack() as stack:
        place = Place(options.ringcar.resolve(), stack)
        place.sidecar("callee", place.app("callee"))
        place.sidecar("callee", place.app("callee of prod"), namespace="prod", APP_API_TOKEN=APP_TOKEN)
        open_port = place.sidecar("caller")
        locked = place.sidecar("caller", DAPR_API_TOKEN=TOKEN)
        for client in options.clients or commands:
            round_of_calls(client, commands[client], open_port, None, options, report)
            round_of_calls(f"{client} with a token", commands[client], locked, TOKEN, options, report)
        report.row("no token", refused(locked, {}))
        report.row("a wrong token", refused(locked, {"dapr-api-token": TOKEN[:-1]}))
    print(f"{report.passed} calls of {', '.join(options.clients or commands)} as they should be, {report.failed} not")
    sys.exit(report.failed != 0)


if __name__ == "__main__":
    main()
