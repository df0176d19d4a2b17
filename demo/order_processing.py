"""The order processing service: makes up an order every second and has it checked out.

It calls the checkout service by its app id, through its own sidecar. Where checkout runs, and on which port, it does
not know. Start it with a sidecar:

    ringcar run --app-id orderprocessingservice --app-port 6001 --dapr-http-port 3601 --dapr-grpc-port 60001 \
        -- python3 demo/order_processing.py
"""

import http.client
import os
import random
import threading
import time

from service import serve

SIDECAR_PORT = int(os.environ.get("DAPR_HTTP_PORT", 3601))
SECONDS_BETWEEN_ORDERS = 1


def place_orders():
    """Calls over one connection that is kept open, and opened anew when a call fails."""
    connection = http.client.HTTPConnection("127.0.0.1", SIDECAR_PORT, timeout=10)
    while True:
        order = random.randint(1, 1000)
        try:
            connection.request("GET", f"/v1.0/invoke/checkoutservice/method/checkout/{order}")
            response = connection.getresponse()
            print(f"order {order}: {response.status} {response.read().decode()}", flush=True)
        except (OSError, http.client.HTTPException) as error:
            print(f"order {order}: {error!r}, trying again", flush=True)
            connection.close()
        time.sleep(SECONDS_BETWEEN_ORDERS)


def answer(method, path, body):
    return 200, {"service": "order processing", "path": path}


if __name__ == "__main__":
    threading.Thread(target=place_orders, daemon=True).start()
    serve("order processing", int(os.environ.get("APP_PORT", 6001)), answer)
