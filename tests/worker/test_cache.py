"""The resource cache: one resource a key, closed when it has no user and is not kept, never while it is in use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from wsi_magnet.worker.cache import ResourceCache


class Made:
    """A resource that knows whether it is open."""

    def __init__(self, key: str) -> None:
        if key == "bad":
            raise OSError("cannot be opened")
        self.key, self.open = key, True

    def close(self) -> None:
        """Close it, once."""
        assert self.open, "closed twice"
        self.open = False


def test_a_resource_is_opened_once_and_the_oldest_idle_one_is_closed() -> None:
    opened: list[Made] = []

    def make(key: str) -> Made:
        opened.append(Made(key))
        return opened[-1]

    cache = ResourceCache(make, idle=2)
    for key in ("a", "b", "a", "c"):
        with cache.borrow(key) as made:
            assert made.open
            assert made.key == key
    assert [(made.key, made.open) for made in opened] == [("a", True), ("b", False), ("c", True)]


def test_idle_resources_are_bounded_by_bytes_except_for_the_one_used_last() -> None:
    sizes = {"a": 4, "b": 4, "c": 4, "large": 100}
    cache = ResourceCache(Made, idle=4, idle_bytes=10, size=lambda made: sizes[made.key])
    opened: dict[str, Made] = {}

    def use(key: str) -> set[str]:
        with cache.borrow(key) as opened[key]:
            pass
        return {key for key, made in opened.items() if made.open}

    assert [use(key) for key in "abca"] == [{"a"}, {"a", "b"}, {"b", "c"}, {"a", "c"}]
    assert use("large") == {"large"}
    assert use("large") == {"large"}
    assert use("b") == {"b"}


def test_a_resource_in_use_stays_open() -> None:
    cache = ResourceCache(Made, idle=0)
    with ExitStack() as stack:
        opened = [stack.enter_context(cache.borrow(key)) for key in "abcdef"]
        with cache.borrow("a") as same:
            assert same is opened[0]
        cache.discard("b")
        assert all(made.open for made in opened)
    assert not any(made.open for made in opened)


def test_a_discarded_resource_is_closed_at_once_or_by_its_last_user() -> None:
    cache = ResourceCache(Made, idle=5)
    with cache.borrow("a") as idle:
        pass
    cache.discard("a")
    assert not idle.open
    with cache.borrow("a") as first:
        cache.discard("a")
        assert first.open
    assert not first.open
    with cache.borrow("a") as second:
        assert second is not first
    cache.discard("never there")


def test_a_resource_that_cannot_be_opened_is_tried_again() -> None:
    cache = ResourceCache(Made, idle=5)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be opened"), cache.borrow("bad"):
            pass


def test_many_threads() -> None:
    lock, counts = threading.Lock(), {"open": 0, "most": 0}

    class Counted(Made):
        def __init__(self, key: str) -> None:
            super().__init__(key)
            with lock:
                counts["open"] += 1
                counts["most"] = max(counts["most"], counts["open"])

        def close(self) -> None:
            super().close()
            with lock:
                counts["open"] -= 1

    cache = ResourceCache(Counted, idle=2)

    def use(number: int) -> None:
        with cache.borrow(str(number * 7 % 11)) as made:
            assert made.open

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(2000)))
    assert counts["open"] == 2
    assert counts["most"] <= 2 + 2 * 4
