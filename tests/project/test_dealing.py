"""The dealer with real sockets: fewest connections first, nobody is sent away, nothing blocks."""

import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from app.dealing import CLOSED, MAX_MESSAGE, OPEN, READY, Channel, Dealer

PATIENCE_S = 5.0


class Table:
    """A dealer on a real listening socket, and the workers' ends of its channels."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = self.listener.getsockname()
        self.selector = selectors.DefaultSelector()
        self.dealer = Dealer(self.listener, self.selector)
        self.clients: list[socket.socket] = []
        self.ends: list[socket.socket] = []
        self.later_s = 0.0
        """By how much the dealer's clock is ahead of ours."""

    def worker(self, *, ready: bool = True) -> tuple[Channel, socket.socket]:
        channel, end = self.dealer.join(f"worker-{len(self.ends) + 1}")
        end.setblocking(False)
        self.ends.append(end)
        if ready:
            end.send(READY)
            self.turn()
        return channel, end

    def connect(self, n: int = 1) -> None:
        for _ in range(n):
            self.clients.append(socket.create_connection(self.address, timeout=PATIENCE_S))
            self.turn()

    def turn(self) -> None:
        """One round of what the supervisor's loop does."""
        for key, _ in self.selector.select(0.01):
            if isinstance(key.data, Channel):
                self.dealer.heard(key.data)
            else:
                self.dealer.accept(time.monotonic() + self.later_s)
        self.dealer.tick(time.monotonic() + self.later_s)

    def close(self) -> None:
        for channel in list(self.dealer.channels):
            self.dealer.leave(channel)
        self.dealer.stop()
        for end in (*self.ends, *self.clients):
            end.close()
        self.selector.close()


def received(end: socket.socket) -> list[socket.socket]:
    """What the worker has been dealt."""
    connections = []
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(end, MAX_MESSAGE, 1)
        except BlockingIOError:
            return connections
        assert message
        connections += [socket.socket(fileno=descriptor) for descriptor in descriptors]


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table()
    yield made
    made.close()


def hand_back(end: socket.socket, connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()
    end.send(CLOSED.pack(len(connections)))


def test_connections_are_spread_evenly(table: Table) -> None:
    ends = [table.worker()[1] for _ in range(3)]
    table.connect(9)
    dealt = [received(end) for end in ends]
    assert [len(connections) for connections in dealt] == [3, 3, 3]
    for end, connections in zip(ends, dealt, strict=True):
        hand_back(end, connections)


def test_a_dealt_connection_reaches_its_client(table: Table) -> None:
    _, end = table.worker()
    table.connect()
    (connection,) = received(end)
    with connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        connection.sendall(b"hello")
        assert table.clients[0].recv(5) == b"hello"
    # The supervisor kept no copy: the worker's close is the client's end of file.
    assert table.clients[0].recv(1) == b""


def test_who_reports_closings_gets_the_next_ones(table: Table) -> None:
    (busy, busy_end), (free, free_end) = table.worker(), table.worker()
    table.connect(4)
    kept = received(busy_end)
    hand_back(free_end, received(free_end))
    table.turn()
    assert (busy.open, free.open) == (2, 0)
    table.connect(2)
    given = received(free_end)
    assert (len(given), len(received(busy_end))) == (2, 0)
    hand_back(busy_end, kept)
    hand_back(free_end, given)


def test_equals_take_turns(table: Table) -> None:
    ends = [table.worker()[1] for _ in range(2)]
    taken = []
    for _ in range(6):
        table.connect()
        for n, end in enumerate(ends):
            if dealt := received(end):
                taken.append(n)
                hand_back(end, dealt)
                table.turn()
    assert sorted(taken) == [0, 0, 0, 1, 1, 1]


def test_until_a_worker_is_ready_connections_wait(table: Table) -> None:
    _, end = table.worker(ready=False)
    table.connect(3)
    assert received(end) == []
    end.send(READY)
    table.turn()
    table.turn()
    dealt = received(end)
    assert len(dealt) == 3
    hand_back(end, dealt)


def test_at_the_start_all_workers_are_waited_for(table: Table) -> None:
    _, first = table.worker(ready=False)
    _, second = table.worker(ready=False)
    first.send(READY)
    table.turn()
    table.connect(4)
    assert received(first) == []
    second.send(READY)
    table.turn()
    table.turn()
    dealt = [received(first), received(second)]
    assert [len(connections) for connections in dealt] == [2, 2]
    hand_back(first, dealt[0])
    hand_back(second, dealt[1])


def test_a_worker_that_does_not_come_is_not_waited_for_for_ever(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dealing.LATECOMERS_S", 60.0)
    _, first = table.worker(ready=False)
    table.worker(ready=False)
    first.send(READY)
    table.turn()
    table.connect(2)
    assert received(first) == []
    table.later_s = 60.0
    table.turn()
    table.turn()
    dealt = received(first)
    assert len(dealt) == 2
    hand_back(first, dealt)


def test_a_dead_worker_is_passed_over(table: Table) -> None:
    (first, first_end), (_, second_end) = table.worker(), table.worker()
    first_end.close()
    table.connect(2)
    dealt = received(second_end)
    assert len(dealt) == 2
    assert first.closed
    hand_back(second_end, dealt)


def test_with_all_workers_dead_connections_wait_for_the_next(table: Table) -> None:
    _, end = table.worker()
    end.close()
    table.turn()
    table.connect(2)
    _, end = table.worker()
    table.turn()
    dealt = received(end)
    assert len(dealt) == 2
    hand_back(end, dealt)


def test_a_full_channel_loses_nobody(table: Table) -> None:
    """The worker reads nothing until its channel is full; then it does, and every client is served."""
    channel, end = table.worker()
    channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    wanted = 80
    table.connect(wanted)
    dealt: list[socket.socket] = []
    full = table.dealer.resume_at is not None
    until = time.monotonic() + PATIENCE_S
    while len(dealt) < wanted:
        assert time.monotonic() < until, f"only {len(dealt)} of {wanted} were dealt"
        dealt += received(end)
        table.turn()
    assert full, "the channel was never full: the test shows nothing"
    assert channel.open == wanted
    hand_back(end, dealt)


def test_after_the_stop_connections_are_refused(table: Table) -> None:
    table.worker()
    table.dealer.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(table.address, timeout=PATIENCE_S)


def test_workers_may_open_the_folder_once_it_is_recovered(table: Table) -> None:
    """Also the one that is started later, and whoever died before costs the others nothing."""
    (_, gone), (_, waits) = table.worker(ready=False), table.worker(ready=False)
    with pytest.raises(BlockingIOError):
        waits.recv(MAX_MESSAGE)
    gone.close()
    table.dealer.recovered()
    _, later = table.worker(ready=False)
    assert waits.recv(MAX_MESSAGE) == later.recv(MAX_MESSAGE) == OPEN
    with pytest.raises(BlockingIOError):
        waits.recv(MAX_MESSAGE)


def test_all_came_once_every_worker_was_ready(table: Table) -> None:
    table.worker()
    assert table.dealer.all_came
    table.worker(ready=False)
    assert table.dealer.all_came, "it is of the start alone"
