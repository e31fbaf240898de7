"""Every executor gives results in order; the threaded one bounds its memory and can be stopped."""

import threading

import pytest
import torch

from parhelion.contracts import SerialExecutor
from parhelion.errors import Cancelled, InputError
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor


@pytest.fixture(params=["serial", "one thread", "four threads"])
def executor(request):
    if request.param == "serial":
        yield SerialExecutor()
        return
    made = ThreadExecutor(1 if request.param == "one thread" else 4, CancelFlag())
    yield made
    made.close()


def test_results_come_in_order(executor) -> None:
    assert list(executor.map(lambda x: x * x, range(50))) == [x * x for x in range(50)]


def test_nothing_to_do(executor) -> None:
    assert list(executor.map(lambda x: x, [])) == []


def test_failure_comes_out(executor) -> None:
    def fails(x: int) -> int:
        if x == 3:
            raise InputError("chunk 3")
        return x

    with pytest.raises(InputError, match="chunk 3"):
        list(executor.map(fails, range(20)))


def test_can_map_again_after_a_failure(executor) -> None:
    with pytest.raises(ZeroDivisionError):
        list(executor.map(lambda x: 1 // x, range(3)))
    assert list(executor.map(str, range(3))) == ["0", "1", "2"]


def test_few_chunks_are_in_flight() -> None:
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    executor = ThreadExecutor(2, CancelFlag())
    results = executor.map(lambda x: x, items())
    next(results)
    assert len(taken) <= 5
    results.close()
    executor.close()


def test_chunks_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)
    executor = ThreadExecutor(2, CancelFlag())
    assert len(list(executor.map(lambda _: both.wait(), range(2)))) == 2
    executor.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_cancel_stops_between_chunks(workers: int) -> None:
    flag = CancelFlag()
    executor = ThreadExecutor(workers, flag)
    done = []
    with pytest.raises(Cancelled):
        for x in executor.map(lambda x: x, range(1000)):
            done.append(x)
            flag.set()
    assert len(done) == 1
    executor.close()


def test_torch_has_one_thread_per_chunk_and_all_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    executor = ThreadExecutor(2, CancelFlag())
    try:
        assert list(executor.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
        assert torch.get_num_threads() == 2
    finally:
        executor.close()
        torch.set_num_threads(before)
