"""Work on two cores: both calls are made and ended, in a forked child too, and no error is lost."""

import contextlib
import os
import threading
import time

import pytest

from fedmodels import cores


@pytest.fixture(params=[1, 2], autouse=True)
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(cores, "CORES", request.param)
    return int(request.param)


def test_both_calls_are_made_the_second_in_another_thread_where_there_are_two_cores(number: int) -> None:
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        time.sleep(0.01)

    cores.at_once(call, call)
    assert len(threads) == 2
    assert len(set(threads)) == number


@pytest.mark.parametrize("failing", [(True, False), (False, True), (True, True)])
def test_an_error_of_either_is_raised_once_both_have_ended(failing: tuple[bool, bool], number: int) -> None:
    ended: list[str] = []

    def call(name: str, fails: bool) -> None:
        time.sleep(0.02 if name == "second" else 0.0)
        ended.append(name)
        if fails:
            raise ValueError(name)

    with pytest.raises(ValueError, match="first" if failing[0] else "second"):
        cores.at_once(lambda: call("first", failing[0]), lambda: call("second", failing[1]))
    assert ended == (["first"] if number == 1 and failing[0] else ["first", "second"])


@pytest.mark.parametrize("fails", [False, True])
def test_each_keeps_to_a_core_of_its_own_meanwhile_and_the_caller_is_free_again(number: int, fails: bool) -> None:
    allowed, seen = os.sched_getaffinity(0), list[set[int]]()

    def call() -> None:
        seen.append(os.sched_getaffinity(0))
        if fails:
            raise ValueError

    with contextlib.suppress(ValueError):
        cores.at_once(call, lambda: seen.append(os.sched_getaffinity(0)))
    assert os.sched_getaffinity(0) == allowed
    if number == 2 and len(allowed) > 1:
        assert seen[0] | seen[1] == allowed
        assert not seen[0] & seen[1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_has_a_helper_of_its_own() -> None:
    cores.at_once(lambda: None, lambda: None)
    child = os.fork()
    if child == 0:
        made: list[int] = []
        cores.at_once(lambda: made.append(1), lambda: made.append(2))
        os._exit(0 if sorted(made) == [1, 2] else 1)
    for _ in range(1000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert (ended, status) == (child, 0)
