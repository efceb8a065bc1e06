"""One of several processes that train in step, each with its own users, over torch's process group.

What travels between them: gradients of the shared part, summed; sums over questions, users and validation answers; a
key for each question, response and prompt (to know which ones several processes hold); and a few numbers a user (how
many answers, where they lean, K weights). Comparisons do not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pal._eigen import eigh
from pal._progress import Report, steps, steps_told
from pal._training.alone import Alone
from pal._training.start import begin
from pal._training.tables import Tables
from pal.losses import sigmoid_slope
from pal.model import ModelConfig, RewardModel
from pal.prototypes import PromptPrototypes, Prototypes, differences
from pal.questions import row_keys
from pal.users import UserWeights

__all__ = ["Shards"]

_BINS = 1 << 14  # of margins, for what is fitted to all of them: a sum of answers and labels in each


class Shards(Alone):
    """This process's place among all.

    Args:
        users: (n,) place of each user here among all users.
        answers: (n_answers here,) place of each training answer among all.
        held_out: likewise of each validation answer.
        user_ids: (N,) ids of all users.
        questions: (Q,) int64 key of each training question, the same wherever it is asked; in the order of all keys one
            process would have them.
        seed: of dropout, with the place of the process.
        told: file to which the first process tells its progress; None: nobody asks.
    """

    def __init__(
        self,
        users: npt.NDArray[np.int64],
        answers: npt.NDArray[np.int64],
        held_out: npt.NDArray[np.int64],
        user_ids: pl.Series,
        questions: npt.NDArray[np.int64],
        seed: int,
        told: Path | None = None,
    ) -> None:
        self._told = told
        self.rank, self.size, self.seed = dist.get_rank(), dist.get_world_size(), seed
        self.users, self.answers, self.held_out = torch.tensor(users), torch.tensor(answers), torch.tensor(held_out)
        self.user_ids = user_ids
        self.n_users, self.n_answers = self.count(len(users)), self.count(len(answers))
        keys, times = np.unique(np.concatenate(self.gathered(np.unique(questions))), return_counts=True)
        found = np.searchsorted(keys, questions)
        self.n_questions, self.question = len(keys), torch.from_numpy(found)
        self.share = torch.from_numpy(1.0 / times[found])  # of a question, so that sums over all count it once

    # -- words ----------------------------------------------------------------------------------------------------

    def total(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all processes."""
        x = x.detach().clone().contiguous()
        dist.all_reduce(x)
        return x

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process, in their order."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def of_all(self, x: Tensor) -> Tensor:
        """What is known of all users (N, ...), of ``x`` (n, ...) of the users here."""
        everywhere = self.gathered((self.users, x.detach().cpu()))
        out = torch.empty(self.n_users, *x.shape[1:], dtype=x.dtype)
        for users, part in everywhere:
            out[users] = part
        return out

    def count(self, answers: int) -> int:
        """How many there are in all, of so many here."""
        return int(sum(self.gathered(answers)))

    def own(self, x: Tensor) -> Tensor:
        """Of what is known of all users (N, ...), that of the users here (n, ...)."""
        return x[self.users]

    def among(self, rows: Tensor) -> tuple[Tensor, int]:
        """Where training answers here (ascending rows) stand among those of all processes, and how many these are."""
        mine = self.answers[rows]
        every = torch.cat(self.gathered(mine)).sort().values
        return torch.searchsorted(every, mine), len(every)

    def mean(self, x: Tensor) -> Tensor:
        """The mean (m,) of rows ``x`` (n, m), of all processes."""
        return self.total(x.sum(0)) / self.count(len(x))

    def slope(self, margin: Tensor, label: Tensor, start: float, weight: Tensor | None, sure: float = 1.0) -> float:
        """`sigmoid_slope` of the margins of all processes: these go into bins of which only sums travel."""
        c = torch.ones(len(margin), dtype=torch.float64) if weight is None else weight.double()
        largest = max(self.gathered(float(margin.abs().max()) if len(margin) else 0.0))
        place = ((margin.double() / max(largest, 1e-30) + 1) / 2 * (_BINS - 1)).round().long()
        sums = torch.zeros(_BINS, 3, dtype=torch.float64)
        sums.index_add_(0, place, torch.stack([c, c * label, c * margin], dim=1))
        count, labels, margins = self.total(sums).T
        used = count > 0
        return sigmoid_slope(margins[used] / count[used], labels[used] / count[used], start, count[used], sure)

    def everyone(self, people: UserWeights) -> UserWeights:
        """All users, of those here."""
        columns = (people.weights, people.n_comparisons, people.reliability, people.concentration)
        return UserWeights(self.user_ids.alias("user_id"), *(self.of_all(column) for column in columns))

    def progress(self, title: str, show: bool) -> AbstractContextManager[Report]:
        """Told to a file by the first process, for the caller to show."""
        if self._told is None or self.rank or not show:
            return steps(title, False)
        return steps_told(self._told, title)

    def agree(self, due: bool) -> bool:
        """What the first process says: clocks differ."""
        said = [due]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def reduce(self, params: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Sums gradients, in place, and the loss: one message a step."""
        # a gradient that nobody has stays none; one that others have is zero here
        has = torch.tensor([p.grad is not None for p in params], dtype=loss.dtype, device=loss.device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        flat = torch.cat([loss.detach().reshape(1), has, *(part.reshape(-1) for part in parts)])
        dist.all_reduce(flat)
        start = 1 + len(params)
        for p, somebody in zip(params, flat[1:start].tolist(), strict=True):
            p.grad = flat[start : start + p.numel()].view_as(p) if somebody else None
            start += p.numel()
        return flat[0].clone()

    # -- rows -----------------------------------------------------------------------------------------------------

    def rows(self, n: int, pooled: bool) -> tuple[int, Tensor]:
        """How many training answers (or, pooled, questions) there are, and the row here of each: -1 elsewhere."""
        n, here = (self.n_questions, self.question) if pooled else (self.n_answers, self.answers)
        place = torch.full((n,), -1)
        place[here] = torch.arange(len(here))
        return n, place

    def validation(self, n: int) -> tuple[int, Tensor]:
        """How many validation answers there are, and the place among them of each of those here."""
        return self.count(n), self.held_out

    def pooled(self, tables: Tables) -> Tables:
        """One training answer a question, of the users here; weighted so that the sum over all is one process's."""
        answers = tables.answers
        given = answers.label.new_tensor(len(answers)) if answers.weight is None else answers.weight.sum()
        pooled = tables.pooled()
        mine = pooled.answers
        share = mine.counting
        scale = given / max(len(mine), 1) / (self.total(given) / self.n_questions)
        if len(mine) < len(tables.questions):  # questions whose answers all have weight 0: they stay, as nothing
            weight, label = mine.label.new_zeros(2, len(tables.questions))
            weight[mine.question], label[mine.question] = share, mine.label
            asked = torch.arange(len(weight), device=weight.device)
            mine, share = replace(mine, user=torch.zeros_like(asked), question=asked, label=label), weight
        return replace(pooled, answers=replace(mine, weight=share * scale))

    def noise(self, generator: torch.Generator) -> torch.Generator:
        """Where dropout draws from: apart from the order of the batches, which all draw alike."""
        del generator
        return torch.Generator().manual_seed(self.seed * 1009 + self.rank + 1)

    # -- where training starts --------------------------------------------------------------------------------------

    def begin(
        self, tables: Tables, shape: ModelConfig, start: RewardModel | None, generator: torch.Generator
    ) -> tuple[Prototypes, Tensor]:
        """As one process begins: the same prototypes, and the logits (n, K) of the users here."""
        tables = tables.to(torch.device("cpu"))
        if start is None:
            everybody = replace(tables, user_ids=pl.Series(np.arange(self.n_users)))
            prototypes, logits = begin(everybody, shape, None, generator, self)
            return prototypes, logits[self.users]
        return begin(tables, shape, start, generator, self)

    def over_rows(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """As one process would: a row counts once, in however many processes it is."""
        share = share_of(self, x)
        return lambda values: self._mean(values.double(), share)

    def features(self, tables: Tables, pooled: Prototypes) -> Tensor:
        """`Prototypes.features` of the training questions, with the leading directions of all questions."""
        questions = tables.questions
        if not isinstance(pooled, PromptPrototypes) or questions.prompts is None or questions.prompt is None:
            return pooled.features(questions)
        unit = F.normalize(pooled.f(questions.items()).squeeze(1), dim=1)
        difference = self._leading(differences(unit, questions), 4, self.share)
        share = share_of(self, questions.prompts)
        centred = questions.prompts - self._mean(questions.prompts.double(), share).float()
        constant = self._mean(centred.norm(dim=1).double(), share).float().expand(len(centred), 1)
        prompts = torch.cat([self._leading(centred, 64, share), constant], dim=1)
        return torch.einsum("qa,qb->qab", difference, prompts[questions.prompt]).flatten(1)

    def _mean(self, x: Tensor, share: Tensor) -> Tensor:
        """The mean over distinct rows, each of which may be in several processes."""
        return self.total(torch.einsum("m...,m->...", x, share)) / self.total(share.sum())

    def _leading(self, x: Tensor, rank: int, share: Tensor) -> Tensor:
        if x.shape[1] <= rank:
            return x
        wide = x.double()
        _, vectors = eigh(self.total(wide.T @ (wide * share[:, None])))
        return torch.mm(x, vectors[:, -rank:].to(x))

    # -- checkpoints: a file a process and step; a step counts when all have it ---------------------------------------

    def _files(self, path: Path) -> dict[int, Path]:
        ending = f".{self.rank}-of-{self.size}"
        found = path.parent.glob(f"{path.name}.*{ending}")
        return {int(file.name[len(path.name) + 1 : -len(ending)]): file for file in found}

    def found(self, path: Path) -> Path | None:
        """The checkpoint to go on from: of the last step that all have written."""
        here = self._files(path)
        common = set.intersection(*(set(steps) for steps in self.gathered(list(here))))
        last = max(common, default=None)
        for step, file in here.items():
            if step != last:
                file.unlink()
        return None if last is None else here[last]

    @contextmanager
    def saving(self, path: Path, step: int) -> Iterator[Path]:
        """The file to write; older ones go once all have written theirs."""
        file = path.with_name(f"{path.name}.{step:09d}.{self.rank}-of-{self.size}")
        yield file
        dist.barrier()
        for old in self._files(path).values():
            if old != file:
                old.unlink()


def share_of(shards: Shards, x: Tensor) -> Tensor:
    """(m,) one over the number of processes that hold each row of ``x`` (m, D), found by a key of its bits."""
    here, place = np.unique(row_keys(x), return_inverse=True)
    every, times = np.unique(np.concatenate(shards.gathered(here)), return_counts=True)
    return torch.from_numpy(1.0 / times[np.searchsorted(every, here)][place])
