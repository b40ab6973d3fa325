"""The load generator: a process of its own that does as little as it can for each request.

    python -m benchmarks.load   with a JSON order on standard input; the answers' times come back on standard output

Non-blocking sockets under epoll, request bytes made beforehand, and of an answer only its status and length are
read while the clock runs; bodies are kept and looked at afterwards. One request is under way on each connection.
"""

import base64
import json
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

RECEIVE_BYTES = 1 << 16
LENGTH = b"content-length: "
SILENT_S = 10.0
"""A server that answers nothing for so long ends the run."""


@dataclass(slots=True)
class Client:
    """One connection. number: of the request under way; at: when it was sent."""

    socket: socket.socket
    number: int = 0
    at: float = 0.0
    got: bytearray = field(default_factory=bytearray)
    due: int = -1


@dataclass(slots=True)
class Result:
    """latencies_s: of each answer, in order of arrival; bodies: number of the request → its first answer's body."""

    elapsed_s: float
    latencies_s: list[float]
    bodies: dict[int, bytes]
    failures: int
    cpu_s: float = 0.0
    """What the generator itself took: client and server share the machine's cores."""


class Load:
    def __init__(self, port: int, clients: int, requests: list[bytes]) -> None:
        self.requests = requests
        self.next = 0
        self.poll = select.epoll()
        self.clients: dict[int, Client] = {}
        for _ in range(clients):
            s = socket.create_connection(("127.0.0.1", port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.poll.register(s.fileno(), select.EPOLLIN)
            self.clients[s.fileno()] = Client(s)

    def run(self, seconds: float, most: int) -> Result:
        """Until the time is over or `most` requests were sent; then what is under way is awaited."""
        result = Result(0.0, [], {}, 0)
        begun, cpu = time.perf_counter(), time.process_time()
        end, under_way = begun + seconds, 0
        for client in self.clients.values():
            self.send(client)
            under_way += 1
        sent = under_way
        while under_way:
            events = self.poll.poll(SILENT_S)
            if not events:
                raise SystemExit(f"no answer for {SILENT_S:g} s with {under_way} requests under way")
            for fd, _ in events:
                client = self.clients[fd]
                if not self.answered(client, result):
                    continue
                if time.perf_counter() < end and sent < most:
                    self.send(client)
                    sent += 1
                else:
                    under_way -= 1
        result.elapsed_s = time.perf_counter() - begun
        result.cpu_s = time.process_time() - cpu
        return result

    def send(self, client: Client) -> None:
        client.number = self.next % len(self.requests)
        self.next += 1
        client.at = time.perf_counter()
        # Small enough for any socket buffer that is empty, as it is when no request is under way.
        client.socket.sendall(self.requests[client.number])

    def answered(self, client: Client, result: Result) -> bool:
        part = client.socket.recv(RECEIVE_BYTES)
        if not part:
            raise SystemExit("the server closed a connection")
        client.got += part
        if client.due < 0:
            head = client.got.find(b"\r\n\r\n")
            if head < 0:
                return False
            at = client.got.lower().find(LENGTH, 0, head) + len(LENGTH)
            client.due = head + 4 + int(client.got[at : client.got.index(b"\r", at)])
        if len(client.got) < client.due:
            return False
        result.latencies_s.append(time.perf_counter() - client.at)
        if client.got[9:12] != b"200":
            result.failures += 1
        elif client.number not in result.bodies:
            result.bodies[client.number] = bytes(client.got[client.got.index(b"\r\n\r\n") + 4 :])
        client.got.clear()
        client.due = -1
        return True


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    requests = [base64.b64decode(text) for text in order["requests"]]
    load = Load(order["port"], order["clients"], requests)
    load.run(order["warm_s"], order["most"])
    result = load.run(order["seconds"], order["most"])
    answer = {
        "elapsed_s": result.elapsed_s,
        "latencies_s": result.latencies_s,
        "failures": result.failures,
        "cpu_s": result.cpu_s,
        "bodies": {number: base64.b64encode(body).decode() for number, body in result.bodies.items()},
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
