"""A WebSocket app and its client, as people write them with the `websockets` package.

usage: websocket.py serve         prints its port, echoes what it gets, and says bye to "bye"
       websocket.py call URL      talks to it, and prints what went well; exit status 1 if anything did not
"""

import asyncio
import os
import sys

import websockets


async def echo(socket):
    # Debian 12's package has the path itself.
    path = socket.request.path if hasattr(socket, "request") else socket.path
    await socket.send(f"hello {path}")
    async for message in socket:
        if message == "bye":
            await socket.close(4000, "as you wish")
            return
        await socket.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


async def call(url):
    async with websockets.connect(url, max_size=None, subprotocols=None) as socket:
        print(await socket.recv())
        for message in ["text ü", b"\x00\xff bytes", "", os.urandom(1 << 20)]:
            await socket.send(message)
            assert await socket.recv() == message
        print("messages came back")
        # Many under way in both directions at a time.
        messages = [bytes([number % 256]) * 5000 for number in range(500)]

        async def send_all():
            for message in messages:
                await socket.send(message)

        sending = asyncio.create_task(send_all())
        for message in messages:
            assert await socket.recv() == message
        await sending
        await asyncio.wait_for(await socket.ping(), 10)
        print("pings came back")
        await socket.send("bye")
        try:
            await socket.recv()
            raise AssertionError("it was to close")
        except websockets.ConnectionClosed as closed:
            print(closed.rcvd.code, closed.rcvd.reason)


if sys.argv[1] == "serve":
    asyncio.run(serve())
else:
    asyncio.run(asyncio.wait_for(call(sys.argv[2]), 30))
