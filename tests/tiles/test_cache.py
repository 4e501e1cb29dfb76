"""The two bounds on memory, with many threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from napari_swin2sr.tiles.cache import BlockCache, ReentrantSemaphore


def test_only_so_many_threads_are_in():
    gate, inside, most = ReentrantSemaphore(3), [], []

    def work(_):
        with gate:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(60)))
    assert 2 <= max(most) <= 3
    assert not gate.is_mine


def test_a_thread_that_is_in_may_enter_again():
    gate = ReentrantSemaphore(1)
    with gate:
        with gate:
            assert gate.is_mine
        assert gate.is_mine
    assert not gate.is_mine
    with gate:
        pass


def test_an_error_gives_the_place_back():
    gate = ReentrantSemaphore(1)
    for _ in range(3):
        with pytest.raises(KeyError), gate:
            raise KeyError
    with gate:
        assert gate.is_mine


def block(value, n=100):
    return np.full(n, value, np.uint8)


def test_the_least_recently_used_block_goes_first():
    cache, made = BlockCache(250), []

    def get(index):
        def make():
            made.append(index)
            return block(index)

        return cache.get_or_make(1, index, make)[0]

    assert [get(k) for k in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]
    assert cache.n_bytes == 200


def test_a_block_beyond_the_limit_is_not_kept():
    cache = BlockCache(99)
    assert cache.get_or_make(1, 0, lambda: block(7))[0] == 7
    assert cache.n_bytes == 0


def test_owners_do_not_mix_and_can_be_forgotten():
    cache = BlockCache(1000)
    for owner in (1, 2):
        assert cache.get_or_make(owner, 0, partial(block, owner))[0] == owner
    cache.forget(1)
    assert cache.n_bytes == 100
    assert cache.get_or_make(1, 0, lambda: block(9))[0] == 9
    assert cache.get_or_make(2, 0, lambda: block(9))[0] == 2


def test_threads_share_the_work():
    cache, made = BlockCache(10_000), []

    def make():
        made.append(1)
        time.sleep(0.05)
        return block(5)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cache.get_or_make(1, 0, make)[0], range(8)))
    assert results == [5] * 8
    assert len(made) == 1


def test_an_error_reaches_all_and_is_not_kept():
    cache, ready = BlockCache(10_000), threading.Barrier(4)

    def make():
        time.sleep(0.05)
        raise ZeroDivisionError

    def get(_):
        ready.wait()
        with pytest.raises(ZeroDivisionError):
            cache.get_or_make(1, 0, make)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(get, range(4)))
    assert cache.get_or_make(1, 0, lambda: block(3))[0] == 3


def test_an_interrupted_thread_does_not_interrupt_the_others():
    cache, entered, go = BlockCache(10_000), threading.Event(), threading.Event()

    def interrupted():
        entered.set()
        go.wait(10)
        raise KeyboardInterrupt

    def first():
        with pytest.raises(KeyboardInterrupt):
            cache.get_or_make(1, 0, interrupted)

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first)
        entered.wait(10)
        other = pool.submit(lambda: cache.get_or_make(1, 0, lambda: block(4))[0])
        time.sleep(0.02)
        go.set()
        assert other.result(10) == 4
        running.result(10)


def test_who_must_not_wait_makes_its_own():
    cache, entered, go = BlockCache(10_000), threading.Event(), threading.Event()

    def slow():
        entered.set()
        go.wait(10)
        return block(1)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(cache.get_or_make, 1, 0, slow)
        entered.wait(10)
        assert cache.get_or_make(1, 0, lambda: block(2), wait=False)[0] == 2
        go.set()
        assert running.result(10)[0] == 1


def test_blocks_can_be_put_and_looked_up():
    cache = BlockCache(250)
    for index in range(3):
        cache.put(1, index, block(index))
        assert cache.get(1, 0) is not None  # so 1 is the oldest when 2 comes
    assert [cache.get(1, index) is None for index in range(3)] == [False, True, False]
    cache.put(1, 0, block(9, 50))
    assert cache.n_bytes == 150


def test_a_new_limit_holds_at_once_and_drops_the_oldest():
    cache = BlockCache(1000)
    for index in range(4):
        cache.put(1, index, block(index))
    cache.get(1, 0)
    cache.limit_bytes = 299
    assert cache.n_bytes == 200
    assert [cache.get(1, index) is None for index in range(4)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("limit", [0, 150])
def test_the_newest_block_may_be_kept_whatever_its_size(limit):
    cache = BlockCache(limit, keep_one=True)
    for index in range(2):
        cache.put(1, index, block(index, 200))
        assert cache.get(1, index)[0] == index
        assert cache.n_bytes == 200
    cache.limit_bytes = limit + 1
    assert cache.n_bytes == 200


FORK = """
import os, signal, threading
import numpy as np
from napari_swin2sr.tiles.cache import BlockCache, ReentrantSemaphore

slots, cache, end = ReentrantSemaphore(1), BlockCache(1000), threading.Event()
holding = threading.Event()

def hold():
    with slots, cache._lock:
        holding.set()
        end.wait()

threading.Thread(target=hold, daemon=True).start()
holding.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that hangs
    with slots:
        cache.put(1, 1, np.zeros(10, "u1"))
        cache.forget(1)
    os._exit(0)
code = os.waitpid(child, 0)[1]
end.set()
print(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_tiles_are_computed_does_not_hang():
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
