"""Answers needed to predict a new person: questions chosen by `pal.next_comparison` against random ones.

Run `python benchmarks/ask.py [simulation persona bowling-green]`; writes benchmarks/results/ask-NAME.json. Each new
person has a pool of questions of their own answers, and a test set apart.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import machine
import pal
from pal import TrainConfig
from pal._adaptation.asking import question_margins
from pal.adaptation import Person, next_comparison
from quality import POLIS, embedded

SHOTS, POOL, PEOPLE = 20, 60, 200


def simulation() -> tuple[pal.EmbeddedComparisons, TrainConfig]:
    data = pal.simulation.population("a", n_users=300, n_prototypes=3, dim=16, per_user=120, noise=0.3).data
    return data, TrainConfig(n_prototypes=3, map="linear", latent_dim=16)


def persona() -> tuple[pal.EmbeddedComparisons, TrainConfig]:
    table = pal.datasets.persona(machine.DATA / "persona", n_personas=3, users_per_persona=300, answers=200)
    return embedded(table), TrainConfig(n_prototypes=3)


def bowling_green() -> tuple[pal.EmbeddedComparisons, TrainConfig]:
    return embedded(pal.datasets.polis(machine.DATA / "polis" / POLIS["bowling-green"])), TrainConfig(n_prototypes=5)


TASKS: dict[str, Callable[[], Any]] = {
    "simulation": simulation,
    "persona": persona,
    "bowling-green": bowling_green,
}


def balanced(right: Any, label: Any) -> float:
    return float(np.mean([right[label == side].mean() for side in np.unique(label)]))


def curve(model: pal.RewardModel, unseen: pal.EmbeddedComparisons, chosen: bool, seed: int) -> list[float]:
    """Accuracy (balanced over labels) after 0 to 20 answers, over all new people's test answers."""
    rng = np.random.default_rng(seed)
    user = unseen.comparisons.user
    counts = np.bincount(user)
    people = [u for u in np.unique(user) if counts[u] >= POOL + 20][:PEOPLE]
    rights, labels = [[] for _ in range(SHOTS + 1)], []
    for u in people:
        rows = rng.permutation(np.flatnonzero(user == u))
        pool, test = rows[:POOL].tolist(), rows[POOL:]
        margins = model.config.slope * question_margins(model, unseen.take(test)) + model.config.side_bias
        label = unseen.comparisons.label[test]
        labels.append(label > 0.5)
        person = Person(model)
        for shot in range(SHOTS + 1):
            logit = torch.sigmoid(margins @ person.posterior.atoms.T) @ person.posterior.mass
            rights[shot].append((logit.numpy() > 0.5) == (label > 0.5))
            if shot < SHOTS:
                left = unseen.take(np.array(pool))
                at = next_comparison(model, person, left) if chosen else int(rng.integers(len(pool)))
                person.answer(unseen.take(np.array([pool.pop(at)])))
    label = np.concatenate(labels)
    return [balanced(np.concatenate(right), label) for right in rights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], help="default: all")
    for name in parser.parse_args().names or TASKS:
        if name != "simulation" and not machine.DATA.is_dir():
            print(f"{name}: skipped, the data are not beside the project (shared/data)")
            continue
        data, config = TASKS[name]()
        parts = data.split(unseen_users=0.2, test=0.05, validation=0.1)
        model = pal.fit(parts.train, parts.validation, config).model
        asked, random = curve(model, parts.unseen, True, 0), curve(model, parts.unseen, False, 0)
        needed = next((n for n, a in enumerate(asked) if a >= random[SHOTS]), None)
        result = {"chosen": asked, "random": random, "answers_for_random_at_20": needed}
        print(name, needed, [round(a, 3) for a in asked], [round(a, 3) for a in random], flush=True)
        machine.write(f"ask-{name}", result)


if __name__ == "__main__":
    main()
