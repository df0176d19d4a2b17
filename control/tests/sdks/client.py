"""The calls of calls.json through the Python SDK.

usage: client.py CALLS.json    (prints a line of JSON per call: what the SDK gave back)
"""

import base64
import json
import sys

from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError


def call(client, one):
    body = bytes(range(256)) if one.get("allBytes") else one.get("text", "").encode()
    answer = client.invoke_method(
        one["app"],
        one["method"],
        data=body,
        content_type=one.get("contentType"),
        http_verb=one["verb"],
        http_querystring=[tuple(pair) for pair in one.get("query", [])],
    )
    return answer.status_code, answer.data


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        calls = json.load(file)
    # Waits for the sidecar.
    with DaprClient() as client:
        for one in calls:
            try:
                status, body = call(client, one)
            except DaprHttpError as error:
                status, body = error.status_code, error.as_dict()["raw_response_bytes"] or b""
            body = base64.b64encode(body).decode()
            print(json.dumps({"name": one["name"], "status": status, "body": body}), flush=True)


if __name__ == "__main__":
    main()
