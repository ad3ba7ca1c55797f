"""What is kept open: one thing a key, closed when nobody needs it, and never under somebody's hands."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from wsi_magnet.worker.cache import ResourceCache


class Thing:
    """Knows whether it is open."""

    def __init__(self, key: str) -> None:
        if key == "bad":
            raise OSError("cannot be opened")
        self.key, self.open = key, True

    def close(self) -> None:
        """Once."""
        assert self.open, "closed twice"
        self.open = False


def test_a_thing_is_made_once_and_the_oldest_idle_one_is_closed() -> None:
    made: list[Thing] = []

    def make(key: str) -> Thing:
        made.append(Thing(key))
        return made[-1]

    shelf = ResourceCache(make, idle=2)
    for key in ("a", "b", "a", "c"):
        with shelf.borrow(key) as thing:
            assert thing.open
            assert thing.key == key
    assert [(thing.key, thing.open) for thing in made] == [("a", True), ("b", False), ("c", True)]


def test_what_is_in_use_stays_open() -> None:
    shelf = ResourceCache(Thing, idle=0)
    with ExitStack() as stack:
        things = [stack.enter_context(shelf.borrow(key)) for key in "abcdef"]
        with shelf.borrow("a") as same:
            assert same is things[0]
        shelf.discard("b")
        assert all(thing.open for thing in things)
    assert not any(thing.open for thing in things)


def test_what_is_unwanted_is_closed_at_once_or_by_its_last_user() -> None:
    shelf = ResourceCache(Thing, idle=5)
    with shelf.borrow("a") as idle:
        pass
    shelf.discard("a")
    assert not idle.open
    with shelf.borrow("a") as first:
        shelf.discard("a")
        assert first.open
    assert not first.open
    with shelf.borrow("a") as second:
        assert second is not first
    shelf.discard("never there")


def test_what_cannot_be_made_is_tried_anew() -> None:
    shelf = ResourceCache(Thing, idle=5)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be opened"), shelf.borrow("bad"):
            pass


def test_many_threads() -> None:
    lock, counts = threading.Lock(), {"open": 0, "most": 0}

    class Counted(Thing):
        def __init__(self, key: str) -> None:
            super().__init__(key)
            with lock:
                counts["open"] += 1
                counts["most"] = max(counts["most"], counts["open"])

        def close(self) -> None:
            super().close()
            with lock:
                counts["open"] -= 1

    shelf = ResourceCache(Counted, idle=2)

    def use(number: int) -> None:
        with shelf.borrow(str(number * 7 % 11)) as thing:
            assert thing.open

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(2000)))
    assert counts["open"] == 2
    assert counts["most"] <= 2 + 2 * 4
