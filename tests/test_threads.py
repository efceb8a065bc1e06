import pytest
import torch

from pal._threads import at_most


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (1, 1), (2, 2), (99, 2)])
def test_threads_are_limited_and_given_back(asked, given):
    before = torch.get_num_threads()
    with at_most(2), pytest.raises(ZeroDivisionError), at_most(asked):
        assert torch.get_num_threads() == min(given, before)
        1 / 0
    assert torch.get_num_threads() == before
