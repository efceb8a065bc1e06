from dataclasses import dataclass

import pytest

from pal._while_better import while_better
from pal.errors import InputError

NAN = float("nan")


@dataclass
class Try:
    loss: float
    place: int


@pytest.mark.parametrize(
    ("losses", "found", "made"),
    [
        ([3, 2, 1, 2, 0], 2, 4),  # the first that is worse ends it
        ([1, 2, 0], 0, 2),
        ([2, 1, 1, 0.5], 3, 4),  # as good as the best is no reason to stop
        ([1, 1, 2], 0, 3),  # and the first of them stays
        ([2, NAN, 1], 0, 2),
        ([NAN, NAN, NAN], 0, 2),
        ([3, 0.01, 0.001], 1, 2),  # solved
    ],
)
def test_the_search_goes_on_while_it_helps(losses, found, made):
    tries = []

    def each():
        for place, loss in enumerate(losses):
            tries.append(Try(float(loss), place))
            yield tries[-1]

    assert while_better(each(), solved=0.1).place == found
    assert len(tries) == made


def test_patience_is_for_worse_ones_in_a_row():
    losses = [3.0, 4.0, 2.0, 3.0, 2.0, 3.0, 1.0, 2.0, 2.0, 0.0]  # as good as the best is neither better nor worse
    tries = (Try(loss, place) for place, loss in enumerate(losses))
    assert while_better(tries, patience=2).place == 2
    assert next(tries).place == 6


def test_nothing_to_choose_from():
    with pytest.raises(InputError, match="nothing to choose from"):
        while_better(iter(()))
