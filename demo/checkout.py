"""The checkout service: checks out the order that is named in the path.

It is an ordinary web service; nothing in it knows of a sidecar. Start it with one:

    ringcar run --app-id checkoutservice --app-port 6002 --dapr-http-port 3602 --dapr-grpc-port 60002 \
        -- python3 demo/checkout.py
"""

import os

from service import serve


def answer(method, path, body):
    match path.split("/"):
        case ["", "checkout", order] if order.isdigit():
            return 200, {"orderId": int(order), "status": "checked out"}
        case _:
            return 404, {"error": f"no such thing here: {method} {path}"}


if __name__ == "__main__":
    serve("checkout", int(os.environ.get("APP_PORT", 6002)), answer)
