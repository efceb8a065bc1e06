"""The loop: random comparisons, Adam on the shared part, a sparse Adam on the users of the step."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adam import Adam, RowAdam, rows_at
from pal._threads import at_most
from pal._training import checkpoint
from pal._training.alone import Alone
from pal._training.config import TrainConfig, begins_straight
from pal._training.start import straighten
from pal._training.tables import Tables
from pal.errors import InputError
from pal.losses import get_loss
from pal.maps import MLPMap
from pal.model import ModelConfig, RewardModel
from pal.questions import Answers, Questions, compact, noise_of
from pal.users import simplex

__all__ = ["Run"]

PIECE = 2048  # answers whose questions are mapped at a time, where nearly each has its own
SAVE_EVERY = 5.0  # seconds between checkpoints
SOLVED = 2.5e-3  # a validation loss below which nothing is left to learn, only margins to inflate
LAST = (1.0, 0.2, 0.04)  # shares of the learning rates at which validation answers are gone over with the others
SOME_STEPS = 8  # of a last pass at the full rates
RISE = 0.1  # of the validation loss from its lowest, beyond which more passes at the full rates learn answers by heart
TOLD = 10.0  # answers that tell as much of a person as one draw of a prototype from their weights would
MAP_PRECISION = 4.0  # of the normal prior on the parameters of model A's map, where no weight decay is given
LEAST_NOISE = 0.1  # of answers that are all near one half, which may be ties as well
IMPROVEMENT = 1e-3  # share of the loss that an evaluation must gain to count


@dataclass
class State:
    """Where a run stands; with its tensors, all that is needed to go on."""

    step: int = 0
    first_loss: float = math.inf  # before the first step
    position: int = 0
    bad: int = 0
    drops: int = 0
    best_loss: float = math.inf
    mark: float = math.inf  # the loss from which improvement is counted
    seconds: float = 0.0
    done: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """Answers that batches are drawn from.

    Attributes:
        tables: their questions, and those of the answers that are here.
        n: how many there are in all processes.
        place: (n,) row here of each, -1 where it is elsewhere; None: all are here.
    """

    tables: Tables
    n: int
    place: Tensor | None

    def here(self, batch: Tensor) -> Tensor:
        """The rows here of a batch of numbers in [0, n)."""
        if self.place is None:
            return batch
        rows = self.place[batch]
        return rows[rows >= 0]


class Run:
    """One training run; `train` leaves the best state in `prototypes`, `table` and `bias`.

    With `shards` it is one of several that run in step: each holds its own users, draws the same batches and takes the
    rows of its users, and has the same shared part, since gradients are summed over all.

    Attributes:
        prototypes: the shared part.
        table: (N, K + 1) a row a user: K logits of the weights, then the log of the reliability.
        bias: of the left side.
        shape: what the model is, with the noise of its answers.
        state: where the run stands.
    """

    def __init__(
        self,
        tables: Tables,
        shape: ModelConfig,
        config: TrainConfig,
        start: RewardModel | None,
        shards: Alone | None = None,
    ) -> None:
        self.config, self.shards = config, shards or Alone()
        noise = self._noise_of(tables.answers) if start is None else start.config.noise
        self.shape = shape = replace(shape, noise=noise)
        self.learns_users = shape.n_prototypes > 1 or config.reliability
        self.prototypes, logits = self.shards.begin(tables, shape, start, torch.Generator().manual_seed(config.seed))
        if start is None and shape.n_prototypes == 1 and begins_straight(config, shape.model):
            straighten(self.prototypes, tables, self.shards)
        self.every, self.counts = tables, tables.counts
        self.strength = config.strength * noise  # in answers of yes or no
        # without a user in it, a question's answers are as good as their mean
        tables = tables if self.learns_users else self.shards.pooled(tables)
        self.device = device = tables.answers.user.device
        self.loss = get_loss(shape.loss)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.noise = self.shards.noise(self.generator)
        if config.curvature:
            self.prototypes.loosen(fresh=start is None)
        else:
            self.prototypes.settle()
        self.prototypes.to(device)
        for module in self.prototypes.modules():
            if isinstance(module, MLPMap):
                module.generator = self.noise
        n = len(tables.user_ids)
        bias, reliability = 0.0, torch.ones(n)
        if start is not None and start.n_prototypes == shape.n_prototypes:  # going on, with what it had learned
            users, rows = start.weights_of(tables.user_ids)
            reliability = users.reliability[rows]
            bias = start.config.side_bias / start.config.slope if tables.sided else 0.0
        self.table = torch.cat([logits, reliability.log()[:, None]], dim=1).to(device)
        del logits  # of all users: not held beside the table
        self.bias = torch.tensor(bias, device=device, requires_grad=True)
        self._new_optimisers()
        self.prior = self.mean_weights()
        self.best = {name: tensor.clone() for name, tensor in self._tensors().items()}
        self.state = State()
        self.drawn = self._drawn(tables, *self.shards.rows(len(tables.answers), pooled=not self.learns_users))
        self.n_validation = self.shards.count(len(tables.val_answers))
        self.batch = self._batch_size(self.drawn.n)
        a_pass = math.ceil(self.drawn.n / self.batch)
        self.eval_every = config.eval_every or min(25, max(8, a_pass))
        # a pass over questions that many were asked is short and smooth: a quarter of the patience serves as well
        smooth = not self.learns_users and 2 * self.drawn.n <= self.shards.count(len(self.every.answers))
        self.patience = max(3, config.patience // 4) if smooth else config.patience
        self.max_steps = config.max_steps if config.max_epochs is None else config.max_epochs * a_pass

    def _noise_of(self, answers: Answers) -> float:
        """How much of the variance of yes or no at even odds labels have: soft labels tell more than a draw would."""
        y, c = answers.label.double(), answers.counting.double()
        soft, total = self.shards.total(torch.stack([(c * y * (1 - y)).sum(), c.sum()]))
        return max(LEAST_NOISE, float(noise_of(soft, total)))

    def _drawn(self, tables: Tables, n: int, place: Tensor | None) -> Drawn:
        return Drawn(tables, n, None if place is None else place.to(self.device))

    def _batch_size(self, n: int) -> int:
        return min(n, self.config.batch_size or min(8192, max(256, n // 100)))

    def _new_optimisers(self) -> None:
        config, named = self.config, list(self.prototypes.named_parameters())
        maps = [p for name, p in named if "." in name]
        others = [p for name, p in named if "." not in name]
        decay = config.weight_decay
        if decay is None and self.shape.model == "a":
            decay = MAP_PRECISION / self.shards.count(len(self.every.answers))
        elif decay is None:  # what model B's f gives is normalised: a decay would be no prior, but longer steps
            decay = 0.0
        self.users = RowAdam(len(self.table), self.table.shape[1], config.user_lr, self.device)
        self.optimiser = Adam([(maps, config.lr, decay), ([*others, self.bias], config.prototype_lr, 0.0)])

    def mean_weights(self) -> Tensor:
        """(K,) the mean of the users' weights."""
        total = torch.zeros(self.table.shape[1] - 1, dtype=torch.float64, device=self.device)
        for piece in torch.split(self.table[:, :-1], 1 << 17):
            total += simplex(piece).sum(0, dtype=torch.float64)
        total = self.shards.total(torch.cat([total, total.sum(0, keepdim=True)]))
        return (total[:-1] / total[-1]).float()

    def train(self, path: Path | None) -> None:
        """Runs to the end, from a checkpoint where there is one."""
        state, n = self.state, self.drawn.n
        order_state = self.generator.get_state()
        resumed = None
        found = None if path is None else self.shards.found(path)
        if found is not None:
            order_state, resumed = self._load(found)
            self.generator.set_state(order_state)
            state = self.state
        order = self._order(n)
        if resumed is not None:
            self.generator.set_state(resumed)
        began = time.perf_counter() - state.seconds
        if state.step == 0 and self.n_validation:
            state.first_loss = state.best_loss = self._validation_loss()  # no worse than where it starts from
        saved = time.perf_counter()
        running, taken = torch.zeros((), device=self.device), 0  # since the last evaluation
        with self._threads(), self.shards.progress(f"K = {self.shape.n_prototypes}", self.config.progress) as report:
            while not state.done:
                if state.position >= n:
                    order_state, state.position = self.generator.get_state(), 0
                    order = self._order(n)
                batch = order[state.position : state.position + self.batch]
                running += self._step(self.drawn, batch, len(batch))
                taken += 1
                state.position += self.batch
                state.step += 1
                if state.step % self.eval_every == 0 or state.step >= self.max_steps:
                    state.seconds = time.perf_counter() - began
                    self._evaluate(float(running) / taken)
                    running, taken = running.zero_(), 0
                    report(state.step, state.best_loss)
                    due = state.done or time.perf_counter() - saved > SAVE_EVERY
                    if path is not None and self.shards.agree(due):
                        self._save(path, order_state)
                        saved = time.perf_counter()
        self._restore(self.best)
        del self.best, self.users, self.optimiser  # as large as all users, and a run may wait long for its last passes

    def kept(self) -> Callable[[], None]:
        """Puts the run back to where it is now, when called; as large as all users."""
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        counts, prior = self.counts, self.prior
        order, noise = self.generator.get_state(), self.noise.get_state()

        def back() -> None:
            self._restore(tensors)
            self.counts, self.prior = counts, prior
            self.generator.set_state(order)
            self.noise.set_state(noise)

        return back

    def go_over(self, passes: int) -> None:
        """Some last passes over training and validation answers together, at falling learning rates.

        What validation has to say has been said by then, and its answers teach as much as any others. A run that ended
        because nothing was left to learn stays as it is.

        Args:
            passes: at each of the rates, and at each no more steps than a quarter of those that the run took.
        """
        if self.state.best_loss < SOLVED:
            return
        train, held_out = self.drawn, self._validation_side()
        self.counts = self.counts + torch.bincount(held_out.tables.answers.user, minlength=len(self.table))
        told = self.shards.count(len(self.every.answers)) / train.n  # answers a row stands for: more than 1 if pooled
        batch = self._batch_size(math.ceil(train.n + held_out.n / told))
        sides = [(train, batch), (held_out, math.ceil(batch * told))]
        most = max(1, self.state.step // 4)
        # a new optimiser needs some steps before it does more good than harm at the full rates, which moreover make
        # margins larger: where they are not linear in w, nothing makes them as large as before
        steps = math.ceil(train.n / batch)
        full = self.learns_users and self.prototypes.linear and steps >= SOME_STEPS and not self.risen() > RISE
        rates = LAST if full else LAST[1:]
        self._new_optimisers()
        with self._threads():
            for factor in rates:
                self.optimiser.factor, self.users.lr = factor, factor * self.config.user_lr
                batches = (part for _ in range(passes) for part in self._mixed(sides))
                for side, numbers, size in islice(batches, most):
                    self._step(side, numbers, size)
                self.prior = self.mean_weights()

    def risen(self) -> float:
        """How far validation loss had risen from its lowest when the learning rates first fell."""
        losses = [row["validation_log_loss"] for row in self.state.history if row["lr"] == self.config.lr]
        return losses[-1] - min(self.state.first_loss, *losses) if losses else 0.0

    def _validation_side(self) -> Drawn:
        """Validation answers of known users, to train on."""
        tables = self.every
        answers = tables.val_answers
        known = (answers.user < len(self.table)).nonzero().squeeze(1)
        n, place = self.shards.validation(len(answers))
        here = torch.full((n,), -1)
        here[place[known.cpu()]] = torch.arange(len(known))
        answers = answers.take(known)
        if not self.learns_users and answers.weight is not None and self.every.answers.weight is not None:
            # beside questions whose weights have a mean of one
            given = self.every.answers.weight.double().sum()
            mean = float(self.shards.total(given)) / self.shards.count(len(self.every.answers))
            answers = replace(answers, weight=answers.weight / mean)
        tables = replace(tables, questions=tables.val_questions, answers=answers)
        return self._drawn(tables, n, here)

    def _mixed(self, sides: list[tuple[Drawn, int]]) -> Iterator[tuple[Drawn, Tensor, int]]:
        """One pass over all sides in batches of their sizes, in random order: a batch is of one side.

        The size goes with each: of the few answers of a side smaller than it, one counts no more than another does.
        """
        parts = [(side, part, n) for side, n in sides if side.n for part in torch.split(self._order(side.n), n)]
        for i in torch.randperm(len(parts), generator=self.generator).tolist():
            yield parts[i]

    def _threads(self) -> AbstractContextManager[None]:
        """As many of torch's threads as a step keeps busy."""
        questions, batch, share = len(self.drawn.tables.questions), self.batch, self.shards.size
        work = min(batch, questions) * sum(p.numel() for p in self.prototypes.parameters())  # multiplications
        return at_most(max(batch // share // 2048, work // share // 500_000_000))

    def _order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator).to(self.device)

    def _step(self, side: Drawn, batch: Tensor, size: int) -> Tensor:
        """A step on a batch of all users' answers: their loss over the size of a batch, and our users' share of it."""
        rows = side.here(batch)
        self.optimiser.zero_grad()
        loss, ours = self._backward(side.tables, rows, size) if len(rows) else (self.bias.new_zeros(()), None)
        loss = self.shards.reduce([p for p, _, _ in self.optimiser.params], loss)
        if not bool(torch.isfinite(loss)):
            raise InputError(f"the loss became {float(loss)} at step {self.state.step}: use smaller learning rates")
        self.optimiser.step()
        if ours is not None:
            self.users.step(self.table, *ours)
        return loss

    def _backward(self, tables: Tables, rows: Tensor, size: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The summed loss of rows divided by the size of the batch, and the users touched with their gradients."""
        answers = tables.answers.take(rows)
        nobody = (rows[:1] * 0, torch.zeros_like(answers.user))
        touched, user = compact(answers.user, len(self.table)) if self.learns_users else nobody
        answers = replace(answers, user=user)
        params = rows_at(self.table, touched).requires_grad_(self.learns_users)
        # how sure the weights are: the concentration of a Dirichlet distribution around them
        counts = self.counts.index_select(0, touched)
        sure = self.strength + counts / (TOLD * self.shape.noise)
        self.prototypes.train()
        questions = tables.questions
        asked, question = compact(answers.question, len(questions))
        if len(asked) <= max(PIECE, len(rows) // 2):
            loss = self._backward_of(questions.take(asked), replace(answers, question=question), params, sure, size)
        else:  # by the piece: what the maps leave in memory for the gradient stays near the caches
            loss = self.bias.new_zeros(())
            for piece in torch.split(torch.arange(len(rows), device=self.device), PIECE):
                part = answers.take(piece)
                asked, question = compact(part.question, len(questions))
                part = replace(part, question=question)
                loss += self._backward_of(questions.take(asked), part, params, sure, size)
        if params.grad is None:
            return loss, None
        with torch.no_grad():
            grad = params.grad * size  # a sum over the user's answers in the step
            share = torch.bincount(user, minlength=len(touched)) / counts
            # the gradient of strength KL(prior || w) in the logits, spread over the user's answers
            weights = simplex(params[:, :-1])
            grad[:, :-1] += self.strength * share[:, None] * (weights - self.prior)
            grad[:, -1] += 4.0 * share * params[:, -1]  # a normal prior with standard deviation 1/2
        return loss, (touched, grad)

    def _backward_of(
        self, questions: Questions, answers: Answers, params: Tensor, concentration: Tensor, size: int
    ) -> Tensor:
        """Adds the gradient of the loss of answers to questions, by users with parameters (U, K + 1)."""
        config, user, label = self.config, answers.user, answers.label
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            terms = self.prototypes.terms(questions)
        terms = terms.full()
        weights = simplex(params[:, :-1])
        if config.uncertainty and self.learns_users:
            margin, spread = self.prototypes.moments(terms, weights, answers.question, user)
            variance = spread / (concentration[user] + 1)
        else:
            margin, variance = self.prototypes.margin(terms, weights, answers.question, user), None
        if config.reliability:
            reliability = params[:, -1].exp()[user]
            margin, variance = margin * reliability, None if variance is None else variance * reliability.square()
        if config.side_bias and self.every.sided:
            margin = margin + self.bias
        # the mean loss over what the weights may be
        each = self.loss(margin, label) if variance is None else self.loss.uncertain(margin, label, variance)
        loss = (each if answers.weight is None else each * answers.weight).sum() / size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    # -- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _validation_loss(self) -> float:
        answers, mean = self.every.val_answers, self.mean_weights()
        total = self.bias.new_zeros(2, dtype=torch.float64)
        if len(answers):
            each = self._validation_losses(answers, mean)
            weight = torch.ones_like(each) if answers.weight is None else answers.weight
            total = torch.stack([(each * weight).sum(), weight.sum()]).double()
        loss, weight = self.shards.total(total)
        return float(loss / weight)

    def _validation_losses(self, answers: Answers, mean: Tensor) -> Tensor:
        self.prototypes.eval()
        terms = self.prototypes.terms(self.every.val_questions)
        asked, user = compact(answers.user, len(self.table) + 1)  # the last is whoever is unseen
        rows = self.table[asked.clamp(max=len(self.table) - 1)]
        unseen = asked == len(self.table)
        weights = torch.where(unseen[:, None], mean, simplex(rows[:, :-1]))
        reliability = torch.where(unseen, 0.0, rows[:, -1]).exp()
        margin = self.prototypes.margin(terms, weights, answers.question, user)
        margin = margin * reliability[user] + self.bias
        if self.loss.link is None:
            return self.loss(margin, answers.label)
        return F.binary_cross_entropy_with_logits(self.loss.link * margin, answers.label, reduction="none")

    def _evaluate(self, train_loss: float) -> None:
        state, config = self.state, self.config
        self.prior = self.mean_weights()
        loss = self._validation_loss() if self.n_validation else train_loss
        row = {"step": state.step, "seconds": state.seconds, "train_loss": train_loss}
        row |= {"validation_log_loss": loss, "lr": config.lr * self.optimiser.factor}
        state.history.append(row)
        if loss < state.best_loss:
            state.best_loss = loss
            for name, tensor in self._tensors().items():
                self.best[name].copy_(tensor)
        if loss < state.mark * (1 - IMPROVEMENT):
            state.mark, state.bad = loss, 0
        else:
            state.bad += 1
        if state.bad >= (self.patience if state.drops == 0 else max(2, self.patience // 2)):
            state.bad, state.drops = 0, state.drops + 1
            self._restore(self.best)
            self.users.lr *= 0.2
            self.optimiser.factor *= 0.2
        state.done = state.drops > config.drops or state.step >= self.max_steps or loss < SOLVED

    def _tensors(self) -> dict[str, Tensor]:
        """What is trained, as it is now."""
        tensors = {f"p.{k}": v.detach() for k, v in self.prototypes.state_dict().items()}
        return {**tensors, "table": self.table, "bias": self.bias.detach()}

    def _restore(self, snapshot: dict[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(snapshot[name])

    # -- checkpoint -----------------------------------------------------------------------------------------------

    @cached_property
    def _fingerprint(self) -> str:
        """A name for the settings and for what is learned from."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in ("progress", "n_prototypes")}
        trained = {name: list(tensor.shape) for name, tensor in self._tensors().items()}
        return json.dumps([asdict(self.shape), settings, self.every.fingerprint(), trained], sort_keys=True)

    def _save(self, path: Path, order_state: Tensor) -> None:
        groups = {
            "now": self._tensors(),
            "best": self.best,
            "users": {"state": self.users.state},
            "random": {"generator": self.generator.get_state(), "order": order_state, "noise": self.noise.get_state()},
            "run": {"prior": self.prior},
        }
        for i, (m, v) in enumerate(zip(self.optimiser.m, self.optimiser.v, strict=True)):
            groups[f"adam{i}"] = {"m": m, "v": v}
        tensors = {f"{group}/{name}": t for group, named in groups.items() for name, t in named.items()}
        plain = {
            "state": asdict(self.state),
            "adam": [self.optimiser.t, self.optimiser.factor],
            "user_lr": self.users.lr,
        }
        with self.shards.saving(path, self.state.step) as file:
            checkpoint.write(file, tensors, plain, self._fingerprint)

    def _load(self, path: Path) -> tuple[Tensor, Tensor]:
        """Takes up a checkpoint; the generator's states at the start of the pass and now."""
        tensors, plain = checkpoint.read(path, self._fingerprint)
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, name = key.split("/")
            groups.setdefault(group, {})[name] = tensor if group == "random" else tensor.to(self.device)
        self._restore(groups["now"])
        self.best = groups["best"]
        self.users.state = groups["users"]["state"]
        self.users.lr, self.prior = plain["user_lr"], groups["run"]["prior"]
        adam = self.optimiser
        adam.t, adam.factor = plain["adam"]
        adam.m = [groups[f"adam{i}"]["m"] for i in range(len(adam.params))]
        adam.v = [groups[f"adam{i}"]["v"] for i in range(len(adam.params))]
        self.state = State(**plain["state"])
        if self.noise is not self.generator:
            self.noise.set_state(groups["random"]["noise"])
        return groups["random"]["order"], groups["random"]["generator"]
