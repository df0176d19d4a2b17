"""Calls that nobody thought of, from the description of the invoke API, against sidecars as `dapr run` starts them.

usage: openapi.py --ringcar PATH --schemathesis PATH [--examples N]

schemathesis makes app ids, methods and bodies from invoke.openapi.yaml and holds each answer to it: three times, so that
each documented status is one that most calls get: an app that answers all, one whose access control refuses all, and any.
"""

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

from place import HERE, Place

CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"
# What a failure is found again with.
SEED = 20260901
SECONDS = 300

REFUSE_ALL = """\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: locked
spec:
  accessControl:
    defaultAction: deny
    trustDomain: public
    policies: []
"""


def run(options, place, port, app_id):
    config = place.home / "schemathesis.toml"
    config.write_text(f'[parameters]\n"path.appId" = "{app_id}"\n' if app_id else "")
    print(f"== calls of {app_id or 'any app id'}", flush=True)
    command = [options.schemathesis, "--config-file", config, "run", HERE / "invoke.openapi.yaml"]
    command += ["--url", f"http://127.0.0.1:{port}", "--phases", "coverage,fuzzing", "--checks", CHECKS]
    command += ["--max-examples", str(options.examples), "--seed", str(SEED), "--no-color"]
    return subprocess.run(command, timeout=SECONDS, cwd=place.home, check=False).returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ringcar", type=Path, required=True)
    parser.add_argument("--schemathesis", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Place(options.ringcar.resolve(), stack)
        locked = place.home / "locked.yaml"
        locked.write_text(REFUSE_ALL)
        place.sidecar("anything", place.app("anything"))
        place.sidecar("locked", place.app("anything"), config=locked)
        port = place.sidecar("caller")
        passed = [run(options, place, port, app_id) for app_id in ("anything", "locked", None)]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
