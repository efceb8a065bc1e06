"""Few-shot on personas (K* = 3, statements of all six): PAL beside the Bayes predictor that knows the groups' answers.

Run `python benchmarks/few_shot.py [--seeds N]`; writes benchmarks/results/few-shot.json. Needs the persona files.
"""

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

import machine
import pal
from pal import TrainConfig
from pal.evaluation import _place_in_user, with_answers

SHOTS = (0, 1, 3, 5, 9, 20, 50, 100)
RESERVE = 100


def bayes(truth: npt.NDArray[Any], answers: npt.NDArray[Any], user: npt.NDArray[Any], few: Any, test: Any) -> Any:
    """P(yes) of the test rows: groups a priori alike, true answers (3, n) of each row's statement known."""
    log_p, log_q = np.log(truth.clip(1e-6, 1)), np.log((1 - truth).clip(1e-6, 1))
    evidence = np.zeros((user.max() + 1, len(truth)))
    np.add.at(evidence, user[few], np.where(answers[few, None] > 0.5, log_p.T[few], log_q.T[few]))
    share = np.exp(evidence - evidence.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return (share[user[test]] * truth.T[test]).sum(1)


def balanced(yes: npt.NDArray[Any], label: npt.NDArray[Any]) -> float:
    return float(np.mean([yes[label > 0.5].mean(), 1 - yes[label < 0.5].mean()]))


def run(seed: int) -> list[dict[str, Any]]:
    table = pal.datasets.persona(
        machine.DATA / "persona", n_personas=3, users_per_persona=1000, answers=200, statements="all", seed=seed
    )
    data = pal.embed(table, "all-MiniLM-L6-v2", store=True)
    parts = data.split(unseen_users=0.2, test=0.05, validation=0.05, seed=seed)
    result = pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=3, seed=seed))
    share_of_yes = float(parts.train.comparisons.label.mean())
    unseen, whole = parts.unseen.comparisons, data.comparisons
    group = np.array([name.rsplit("-", 1)[0] for name in whole.user_ids.cast(str)])
    names = sorted(set(group[np.unique(whole.user)]))
    # the true answers: what everybody of a group said of a statement
    truth = np.full((len(names), len(whole.prompts)), np.nan)
    for g, name in enumerate(names):
        rows = group[whole.user] == name
        total = np.bincount(whole.prompt[rows], minlength=truth.shape[1])
        yes = np.bincount(whole.prompt[rows], whole.label[rows], minlength=truth.shape[1])
        truth[g] = np.where(total > 0, yes / np.maximum(total, 1), 0.5)
    of_row = truth[:, unseen.prompt]
    place = _place_in_user(unseen.user, np.random.default_rng(seed))
    test = np.flatnonzero(place >= RESERVE)
    label = unseen.label
    rows = []
    for shots in SHOTS:
        few = np.flatnonzero(place < shots)
        p = with_answers(result.model, parts.unseen.take(few)).predict(parts.unseen.take(test))
        q = bayes(of_row, label, unseen.user, few, test)
        row = {"shots": shots, "share_of_yes": share_of_yes}
        for name, probability in (("pal", p), ("bayes", q)):
            row[name] = balanced(probability > share_of_yes, label[test])
            row[f"{name}_at_half"] = balanced(probability > 0.5, label[test])
            clipped = np.clip(probability, 1e-6, 1 - 1e-6)
            row[f"{name}_log_loss"] = float(-np.where(label[test] > 0.5, np.log(clipped), np.log1p(-clipped)).mean())
        rows.append(row)
        print(seed, {k: round(v, 4) for k, v in row.items()}, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = [run(seed) for seed in range(parser.parse_args().seeds)]
    mean = [{key: float(np.mean([rows[i][key] for rows in seeds])) for key in seeds[0][i]} for i in range(len(SHOTS))]
    machine.write("few-shot", {"mean": mean, "seeds": seeds})


if __name__ == "__main__":
    main()
