"""A machine where `dapr init` was run, with Ringcar in daprd's place; apps and sidecars on it."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEADLINE_SECONDS = 20


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Place:
    """A home as `dapr init` leaves it, and what runs in it."""

    def __init__(self, ringcar, stack):
        self.stack = stack
        self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringcar.sdks.")))
        self.dapr = self.home / ".dapr"
        (self.dapr / "bin").mkdir(parents=True)
        (self.dapr / "components").mkdir()
        (self.dapr / "bin/daprd").symlink_to(ringcar)
        self.config = self.dapr / "config.yaml"
        self.config.write_text(CONFIG)
        (self.dapr / "components/statestore.yaml").write_text(STATE_STORE)

    def app(self, name):
        """Its port."""
        command = [sys.executable, HERE / "app.py", name, "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.stack.callback(end, process)
        return int(process.stdout.readline())

    def sidecar(self, app_id, app_port=0, namespace=None, config=None, **tokens):
        """Its HTTP port. The arguments are those that `dapr run` of 1.18 gives, in its order."""
        port = free_port()
        arguments = {
            "app-id": app_id,
            "dapr-http-port": port,
            "dapr-grpc-port": free_port(),
            "scheduler-host-address": "localhost:50006",
            "dapr-internal-grpc-port": free_port(),
            "metrics-port": free_port(),
            "app-port": app_port,
            "app-protocol": "http",
            "config": config or self.config,
            "resources-path": self.dapr / "components",
            "placement-host-address": "localhost:50005",
            "log-level": "info",
            "app-max-concurrency": -1,
            "max-body-size": "4Mi",
            "read-buffer-size": "4Ki",
            "profile-port": -1,
        }
        pairs = [text for key, value in arguments.items() for text in (f"--{key}", str(value))]
        environment = os.environ | tokens | {"HOME": str(self.home), "RINGCAR_RUNTIME_DIR": str(self.home / "run")}
        if namespace:
            environment["NAMESPACE"] = namespace
        with open(self.home / f"{app_id}-{port}.log", "wb") as log:
            command = [self.dapr / "bin/daprd", *pairs]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.stack.callback(end, process)
        self.wait(port, process, Path(log.name))
        return port

    @staticmethod
    def wait(port, process, log):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1.0/healthz") as answer:
                    if answer.status == 204:
                        return
            time.sleep(0.02)
        raise SystemExit(f"the sidecar is not healthy:\n{log.read_text()}")


def end(process):
    process.terminate()
    try:
        process.wait(DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


CONFIG = """\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: daprConfig
spec:
  tracing:
    samplingRate: "1"
    zipkin:
      endpointAddress: http://localhost:9411/api/v2/spans
"""

STATE_STORE = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: statestore
spec:
  type: state.redis
  version: v1
  metadata:
  - name: redisHost
    value: localhost:6379
"""
