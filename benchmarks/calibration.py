"""Is calibration error more than chance would show? PAL on the splits of compare.py, each beside perfect models.

Run `python benchmarks/calibration.py [NAME...] [--seeds N]`; writes benchmarks/results/calibration-NAME.json and, from
all that are there, the table of docs/benchmarks.md. For seen people, and for new ones after so many answers: ECE of
each split; what 97.5% of perfectly calibrated models stay below on its answers, counted as independent, and of models
that are right about people, whose answers hang together; and the slope of the log-odds that all test answers together
ask for (1 is right).
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

import machine
import pal
from compare import RESERVE, TASKS
from pal.baselines._pooled import Predicted, pooled_calibration
from pal.embeddings import EmbeddedComparisons
from pal.evaluation import shot_models
from pal.losses import sigmoid_slope

SHOTS = (0, 5, 20)
DRAWS = 200


def slope(splits: list[Predicted]) -> float:
    """By which the log-odds of all these answers should be multiplied."""
    p = torch.from_numpy(np.concatenate([s.probability for s in splits])).double().clamp(1e-6, 1 - 1e-6)
    return sigmoid_slope(p.logit(), torch.from_numpy(np.concatenate([s.label for s in splits])))


def answers_of_people(model: pal.RewardModel, data: EmbeddedComparisons) -> npt.NDArray[np.bool_]:
    """Labels (DRAWS, n) of people drawn from what the model knows of each of those who answered."""
    torch.manual_seed(0)
    questions, question = model.questions(data)
    table, row_of = model.weights_of(data.comparisons.user_ids)
    margins = model.terms(questions).margins[question].double()
    people, place = np.unique(data.comparisons.user, return_inverse=True)
    row = row_of[torch.from_numpy(people.astype(np.int64))]
    new = (row == len(table) - 1).nonzero().squeeze(1)  # of whom nothing is known but the population
    concentration = table.concentration[row].double().clamp(max=1e6)[:, None]
    density = torch.distributions.Dirichlet(table.weights[row].double().clamp(min=1e-6) * concentration)
    labels = np.empty((DRAWS, len(data)), dtype=np.bool_)
    for each in labels:
        weights = density.sample()
        if len(new):
            weights[new] = model.atoms[torch.multinomial(model.mass, len(new), replacement=True)].double()
        margin = table.reliability[row][place] * (margins * weights[place]).sum(1)
        p = torch.sigmoid(model.config.slope * margin + model.config.side_bias)
        each[:] = (torch.rand(len(p)) < p).numpy()
    return labels


def measured(
    data: EmbeddedComparisons, config: pal.TrainConfig, seed: int
) -> Iterator[tuple[str, Predicted, npt.NDArray[np.bool_]]]:
    """Of one split, who was tested, what was predicted, and what people drawn would have answered."""
    parts = data.split(unseen_users=0.2, test=0.2, validation=0.1, seed=seed)
    model = pal.fit(parts.train, parts.validation, replace(config, seed=seed)).model
    tested = [("seen", model, parts.test)]
    counts = parts.unseen.comparisons.user_counts()
    if counts.max(initial=0) > RESERVE:
        shown = shot_models(model, parts.unseen, SHOTS, 1, RESERVE)
        tested += [(f"new, {n}", each, test) for _, n, test, each in shown]
    for key, knowing, test in tested:
        table = test.comparisons
        probability = pal.predict(knowing, test)
        predicted = Predicted(probability, table.label, table.user, len(table.user_ids), table.sided)
        yield key, predicted, answers_of_people(knowing, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*TASKS], help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.names:
        load, ours, config = TASKS[name]
        data, config = load(), replace(config, model=ours.removeprefix("pal-"))
        found: dict[str, list[tuple[Predicted, npt.NDArray[np.bool_]]]] = {}
        for seed in range(arguments.seeds):
            for key, predicted, drawn in measured(data, config, seed):
                found.setdefault(key, []).append((predicted, drawn))
        result = {}
        for key, splits in found.items():
            ece, bound = zip(*(pooled_calibration([split]) for split, _ in splits), strict=True)
            of_people = [float(np.quantile(split.ece(drawn), 0.975)) for split, drawn in splits]
            result[key] = {
                "answers": [len(split.label) for split, _ in splits],
                "ece": ece,
                "bound": bound,
                "bound_of_people": of_people,
                "within": sum(e <= b for e, b in zip(ece, bound, strict=True)),
                "within_of_people": sum(e <= b for e, b in zip(ece, of_people, strict=True)),
                "slope": slope([split for split, _ in splits]),
            }
        machine.write(f"calibration-{name}", result)
    draw()


def draw() -> None:
    """docs/benchmarks.md's table, from the results that are there."""
    from compare_table import calibration, replace_part

    paths = {name: machine.RESULTS / f"calibration-{name}.json" for name in TASKS}
    there = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    replace_part(machine.ROOT / "docs" / "benchmarks.md", "calibration", calibration(there))


if __name__ == "__main__":
    main()
