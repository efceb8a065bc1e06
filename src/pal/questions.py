"""Questions: what a set of comparisons asks, each distinct (prompt, left, right) once.

Maps then run once per unique item of a step, not once per comparison: on surveys, where everybody answers the same
questions, that is orders of magnitude less work.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError

__all__ = ["Answers", "Questions", "compact", "noise_of", "row_keys", "tabulate"]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # products with it, modulo 2^64, mix the bits of a key


def compact(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct values of ``rows`` (ascending), and ``rows`` counted in them.

    Args:
        rows: (B,) values in [0, size).
        size: length of the table they point into.
    """
    if size <= 8 * len(rows):  # counts are cheaper than a sort until the table outgrows the batch
        distinct = torch.bincount(rows, minlength=size).nonzero().squeeze(1)
        if len(distinct) == size:
            return distinct, rows
        place = torch.empty(size, dtype=torch.long, device=rows.device)
        place[distinct] = torch.arange(len(distinct), device=rows.device)
        return distinct, place.index_select(0, rows)
    distinct, inverse = torch.unique(rows, return_inverse=True)
    return distinct, inverse


@dataclass(frozen=True)
class Questions:
    """Distinct questions, with the vectors of what they ask about.

    Attributes:
        responses: (R, D) embeddings.
        prompts: (P, Dp) embeddings, or None.
        left: (Q,) items on the left.
        right: (Q,) items on the right.
        prompt: (Q,) rows of `prompts`, or None.
        item_response: (I,) row of `responses` of each item, or None where items are the responses.
        item_prompt: (I,) row of `prompts` of each item, where items are responses together with their prompt.
    """

    responses: Tensor
    prompts: Tensor | None
    left: Tensor
    right: Tensor
    prompt: Tensor | None
    item_response: Tensor | None = None
    item_prompt: Tensor | None = None

    def __len__(self) -> int:
        return len(self.left)

    @property
    def n_items(self) -> int:
        """I: distinct items, as the map of responses sees them."""
        return len(self.responses) if self.item_response is None else len(self.item_response)

    def items(self) -> Tensor:
        """What the map of responses takes: (I, D), or (I, D + Dp) where items are responses with their prompt."""
        if self.item_response is None:
            return self.responses
        x = self.responses[self.item_response]
        if self.item_prompt is None or self.prompts is None:
            return x
        return torch.cat([x, self.prompts[self.item_prompt]], dim=1)

    def keys(self) -> npt.NDArray[np.int64]:
        """A key (Q,) of the vectors of each: the same in other tables, and with left and right exchanged."""
        items = row_keys(self.responses)
        key = items[self.left.numpy(force=True)] + items[self.right.numpy(force=True)]
        if self.prompts is not None and self.prompt is not None:
            key = key * _ODD + row_keys(self.prompts)[self.prompt.numpy(force=True)]
        return np.asarray(key.view(np.int64))

    def concatenated(self) -> "Questions":
        """The same questions about items [x; x_c]: each distinct (response, prompt) is an item of its own."""
        if self.prompts is None or self.prompt is None:
            return self
        width = len(self.prompts)
        keys = torch.cat([self.left * width + self.prompt, self.right * width + self.prompt])
        distinct, rows = torch.unique(keys, return_inverse=True)
        half = len(self.left)
        return replace(
            self,
            left=rows[:half],
            right=rows[half:],
            item_response=distinct // width,
            item_prompt=distinct % width,
        )

    def take(self, rows: Tensor) -> "Questions":
        """The questions at these rows (m,), ascending and distinct, with only the items and prompts that they use."""
        if len(rows) == len(self):
            return self
        half = len(rows)
        items, sides = compact(torch.cat([self.left[rows], self.right[rows]]), self.n_items)
        responses, prompts, prompt = self.responses, self.prompts, self.prompt
        item_response, item_prompt = self.item_response, self.item_prompt
        if item_response is None:
            responses = responses.index_select(0, items)  # twice as fast as an index
        else:
            item_response = item_response[items]
            item_prompt = None if item_prompt is None else item_prompt[items]
        if prompts is not None and prompt is not None:
            if item_prompt is None:
                used, prompt = compact(prompt[rows], len(prompts))
                prompts = prompts[used]
            else:
                prompt = prompt[rows]
        return Questions(responses, prompts, sides[:half], sides[half:], prompt, item_response, item_prompt)

    def to(self, device: torch.device) -> "Questions":
        """The same questions on a device."""
        tensors: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in tensors.items() if t is not None})


@dataclass(frozen=True)
class Answers:
    """Comparisons as tensors: answer j is of user ``user[j]`` to question ``question[j]``.

    Attributes:
        user: (n,) rows of the users' table.
        question: (n,) rows of the questions.
        label: (n,) P(left preferred) as answered.
        weight: (n,) or None: all count the same.
    """

    user: Tensor
    question: Tensor
    label: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def counting(self) -> Tensor:
        """(n,) how often each answer counts: its weight, or once."""
        return torch.ones_like(self.label) if self.weight is None else self.weight

    def telling(self, noise: float, n_users: int) -> "Answers":
        """The same answers, each counting as often as it takes draws of yes or no to tell as much of a person.

        Args:
            noise: of the answers that a model was trained on (`ModelConfig.noise`); of a person whose own labels are
                less soft, that of theirs.
            n_users: answers are of users in [0, n_users).
        """
        if noise == 1:
            return self
        soft = self.counting * self.label * (1 - self.label)
        soft, count = (torch.bincount(self.user, each, minlength=n_users) for each in (soft, self.counting))
        own = noise_of(soft, count).clamp(min=noise).to(self.label)
        return replace(self, weight=self.counting / own[self.user])

    def take(self, rows: Tensor) -> "Answers":
        """The answers at these rows (m,)."""
        # twice as fast as an index
        user, question, label = (column.index_select(0, rows) for column in (self.user, self.question, self.label))
        return Answers(user, question, label, None if self.weight is None else self.weight.index_select(0, rows))

    def sums(self, value: Tensor, features: Tensor, n_users: int) -> Tensor:
        """Sum over each user's answers of ``value`` (n,) times the question's ``features`` (Q, M), shape (n_users, M).

        A sparse product: ten times as fast as gathering the features of every answer, and without that memory.
        """
        return torch.from_numpy(self.matrix(value, n_users, len(features)) @ features.contiguous().numpy())

    def matrix(self, value: Tensor, n_users: int, n_questions: int) -> Any:
        """Sparse (n_users, n_questions): ``value`` (n,) of each user's answers to each question, added."""
        from scipy.sparse import csr_matrix  # here: not every use of pal needs it

        return csr_matrix((value.numpy(), (self.user.numpy(), self.question.numpy())), (n_users, n_questions))

    def log_likelihood(self, odds: Tensor, n_users: int) -> Tensor:
        """Log-likelihood (n_users, M) of each user's answers if the log-odds of questions were ``odds`` (Q, M).

        Soft labels are shares of an answer; an answer's weight is how often it counts.
        """
        weight = self.counting
        return self.sums(weight * self.label, odds, n_users) - self.sums(weight, F.softplus(odds), n_users)

    def to(self, device: torch.device) -> "Answers":
        """The same answers on a device."""
        weight = None if self.weight is None else self.weight.to(device)
        return Answers(self.user.to(device), self.question.to(device), self.label.to(device), weight)


def row_keys(x: Tensor) -> npt.NDArray[np.uint64]:
    """A key (m,) of the bits of each row of ``x`` (m, D)."""
    bits = np.ascontiguousarray(x.numpy(force=True)).view(np.uint32).astype(np.uint64)
    key = np.einsum("nd,d->n", bits, np.arange(1, bits.shape[1] + 1, dtype=np.uint64) * _ODD | np.uint64(1))
    for _ in range(2):  # sums of keys shall not be keys of sums: splitmix64 (Steele et al., 2014)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = key ^ (key >> np.uint64(31))
    return np.asarray(key)  # modulo 2^64 throughout


def noise_of(soft: Tensor, count: Tensor) -> Tensor:
    """The part that labels y have of the variance of yes or no at even odds.

    Args:
        soft: sums of y (1 - y), each times how often the answer counts.
        count: sums of how often answers count.
    """
    return 1 - 4 * soft / count.clamp(min=1e-30)


def tabulate(data: EmbeddedComparisons) -> tuple[Questions, Tensor]:
    """The distinct questions of embedded comparisons, and the question of each row (n,)."""
    table = data.comparisons
    left, right = table.left.astype(np.int64), table.right.astype(np.int64)
    responses = len(table.responses)
    key = left * responses + right
    use_prompts = data.prompts is not None and table.prompt is not None
    if use_prompts and table.prompt is not None:
        n_prompts = len(table.prompts) if table.prompts is not None else 0
        if responses * responses * n_prompts >= 2**62:
            raise InputError(f"{responses} responses x {n_prompts} prompts are too many for one table")
        key = key * n_prompts + table.prompt
    _, first, question = np.unique(key, return_index=True, return_inverse=True)

    use, sides = _used(np.concatenate([left[first], right[first]]), responses)
    prompts = prompt = None
    if use_prompts and data.prompts is not None and table.prompt is not None:
        asked, prompt_rows = _used(table.prompt[first].astype(np.int64), len(data.prompts))
        prompts, prompt = _tensor(data.prompts, asked), torch.from_numpy(prompt_rows)
    half = len(first)
    questions = Questions(
        _tensor(data.responses, use), prompts, torch.from_numpy(sides[:half]), torch.from_numpy(sides[half:]), prompt
    )
    return questions, torch.from_numpy(question.astype(np.int64, copy=False))


def _used(rows: npt.NDArray[np.int64], size: int) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64]]:
    """Which rows of a table are used, where that is less than half of it (else None), and rows counted in them."""
    if 2 * len(rows) >= size and 2 * np.count_nonzero(np.bincount(rows, minlength=size)) >= size:
        return None, rows
    distinct, counted = np.unique(rows, return_inverse=True)
    return distinct, counted


def _tensor(array: npt.NDArray[Any], rows: npt.NDArray[np.int64] | None) -> Tensor:
    return torch.from_numpy(np.array(array if rows is None else array[rows], dtype=np.float32))
