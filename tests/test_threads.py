from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from pal._threads import at_most

pytestmark = pytest.mark.usefixtures("two")


@pytest.fixture
def two():
    """Two threads, however many the tests are run with."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (1, 1), (2, 2), (99, 2)])
def test_threads_are_limited_and_given_back(asked, given):
    @at_most(asked)
    def broken():
        raise KeyboardInterrupt(torch.get_num_threads())

    with pytest.raises(KeyboardInterrupt) as found:
        broken()
    assert found.value.args == (given,)
    assert torch.get_num_threads() == 2


def test_a_limit_within_a_limit_gives_back_the_outer_one():
    with at_most(1):
        with at_most(2):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_threads_limited_at_the_same_time_get_back_what_was_before():
    together = Barrier(4)

    def limited(last):
        if last:
            together.wait()
        with at_most(1):
            if not last:
                together.wait()
            assert torch.get_num_threads() == 1
            together.wait()
        return torch.get_num_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(limited, [False, True, True, True])) == [2] * 4
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
