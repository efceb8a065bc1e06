import pytest
import torch

from pal._threads import at_most


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (1, 1), (2, 2), (99, 2)])
def test_threads_are_limited_and_given_back(asked, given):
    @at_most(asked)
    def broken():
        raise KeyboardInterrupt(torch.get_num_threads())

    before = torch.get_num_threads()
    with at_most(2):
        with pytest.raises(KeyboardInterrupt) as found:
            broken()
        assert found.value.args == (min(given, before),)
    assert torch.get_num_threads() == before
