"""PAL beside its peers on populations whose truth is none of PAL's: continua, networks, spam, few answers, few people.

Run `python benchmarks/populations.py [NAME...] [--seeds N]`: a population at a time, each into
benchmarks/results/populations-NAME.json; then writes the table of docs/benchmarks.md from all that are there.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import machine
import pal
from compare import measure

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

PEERS = ("btl-linear", "per-user", "metric", "lore", "user-embedding", "factor", "btl")
D = 32  # of the vectors, unless said otherwise
NOISE = 0.5  # temperature of the answers, in standard deviations of the margin


def answered(
    random: np.random.Generator,
    user: Index,
    pairs: tuple[Index, Index],
    margin: Array,
    responses: Array,
    prompt: Index | None = None,
    prompts: Array | None = None,
    noise: float = NOISE,
    soft: bool = False,
) -> pal.EmbeddedComparisons:
    """Answers of users (n,) to pairs of responses, left with probability p = sigmoid(margin / temperature).

    Soft ones are p itself, off by some, in fifths.
    """
    odds = margin / (noise * margin.std())
    if soft:
        label = np.round(5 / (1 + np.exp(-odds - noise * random.standard_normal(len(user))))) / 5
    else:
        label = random.random(len(user)) < 1 / (1 + np.exp(-odds))
    ids = [f"x{i:05d}" for i in range(len(responses))]
    prompt_ids = [f"q{i:05d}" for i in range(0 if prompts is None else len(prompts))]
    comparisons = pal.Comparisons.from_columns(
        user_id=[f"u{i:05d}" for i in user],
        left_id=[ids[i] for i in pairs[0]],
        right_id=[ids[i] for i in pairs[1]],
        label=label.astype(np.float64),
        prompt_id=None if prompt is None else [prompt_ids[i] for i in prompt],
    )
    vectors = responses if prompts is None else np.concatenate([responses, prompts])
    return pal.embed(comparisons, embeddings=([*ids, *prompt_ids], vectors.astype(np.float32)))


def pairs_of(random: np.random.Generator, n: int, items: int) -> tuple[Index, Index]:
    left = random.integers(0, items, n)
    return left, (left + random.integers(1, items, n)) % items


def ideal_points(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """250 people anywhere in four directions of taste prefer what is nearer to them."""
    items = random.standard_normal((400, D))
    latent = items @ random.standard_normal((D, 4)) / np.sqrt(D)
    points, user = 0.8 * random.standard_normal((250, 4)), np.repeat(np.arange(250), 40)
    left, right = pairs_of(random, len(user), len(items))
    far = [((latent[side] - points[user]) ** 2).sum(1) for side in (left, right)]
    return answered(random, user, (left, right), far[1] - far[0], items)


def linear(
    random: np.random.Generator, people: int = 250, answers: int = 40, rank: int = 4, common: float = 1.0
) -> pal.EmbeddedComparisons:
    """Everybody has a linear reward: one for all, and what they differ by in some directions."""
    items = random.standard_normal((400, D))
    tastes = random.standard_normal((people, rank)) @ random.standard_normal((rank, D)) / np.sqrt(rank)
    tastes += common * random.standard_normal(D)
    user = np.repeat(np.arange(people), answers)
    left, right = pairs_of(random, len(user), len(items))
    margin = ((items[left] - items[right]) * tastes[user]).sum(1)
    return answered(random, user, (left, right), margin, items)


def groups(
    random: np.random.Generator,
    k: int = 4,
    people: int = 300,
    answers: int | Index = 40,
    items: int = 1000,
    shares: list[float] | None = None,
    spam: float = 0.0,
) -> pal.EmbeddedComparisons:
    """Groups of people, each with a random two-layer network as its reward."""
    vectors = random.standard_normal((items, D))
    hidden = [np.tanh(2 * vectors @ random.standard_normal((D, 24)) / np.sqrt(D)) for _ in range(k)]
    rewards = np.stack([each @ random.standard_normal(24) for each in hidden])
    rewards /= rewards.std(axis=1, keepdims=True)
    group = random.choice(k, people, p=shares)
    user = np.repeat(np.arange(people), answers)
    left, right = pairs_of(random, len(user), items)
    margin = rewards[group[user], left] - rewards[group[user], right]
    margin[(random.random(people) < spam)[user]] = 0.0
    return answered(random, user, (left, right), margin, vectors, noise=0.4)


def long_tail(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """Most of 400 people gave five to ten answers, some hundreds."""
    answers = np.minimum(5 * (1 - random.random(400)) ** (-1 / 1.1), 400).astype(np.int64)
    return groups(random, k=3, people=400, answers=answers)


def votes(random: np.random.Generator, shared: float = 0.0) -> pal.EmbeddedComparisons:
    """500 people vote on 30 of 80 statements each, by four factors that the statements' vectors say nothing of.

    All vectors share one that is so many times as long as what they do not, as in hidden states of language models.
    """
    statements, sides = (random.standard_normal((n, 384)) / np.sqrt(384) for n in (80, 2))
    factors, loadings = random.standard_normal((500, 4)), random.standard_normal((80, 4)) / 2
    user = np.repeat(np.arange(500), 30)
    asked = np.concatenate([random.permutation(80)[:30] for _ in range(500)])
    margin = 0.7 * random.standard_normal(80)[asked] + 1.5 * (factors[user] * loadings[asked]).sum(1)
    agree = np.zeros(len(user), np.int64)
    alike = statements + shared * sides[0] / np.linalg.norm(sides[0])
    return answered(random, user, (agree, agree + 1), margin, sides, asked, alike, noise=0.35)


def prompts(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """300 people between three bilinear rewards of prompt and response, and much that they share."""
    asked, responses = random.standard_normal((200, 48)), random.standard_normal((800, 48))
    low = [random.standard_normal((48, 6)) @ random.standard_normal((6, 48)) / 48 for _ in range(4)]
    weights, user = random.dirichlet(np.full(3, 0.4), 300), np.repeat(np.arange(300), 40)
    prompt = random.integers(0, 200, len(user))
    left, right = (4 * prompt + side for side in pairs_of(random, len(user), 4))
    difference = responses[left] - responses[right]
    margins = [((asked[prompt] @ (each + 0.7 * low[3])) * difference).sum(1) for each in low[:3]]
    margin = (np.stack(margins, axis=1) * weights[user]).sum(1)
    return answered(random, user, (left, right), margin, responses, prompt, asked)


def styles(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """200 people of three tastes for six directions of style; 3,000 prompts of two responses that hold them."""
    asked = random.standard_normal((3000, 64)) / 8
    style, written = random.standard_normal((6000, 6)), random.standard_normal((6, 64)) / 8
    responses = 0.7 * np.repeat(asked, 2, axis=0) + 0.2 * style @ written + random.standard_normal((6000, 64)) / 16
    tastes = random.standard_normal(6) + random.standard_normal((3, 6))
    user = np.repeat(np.arange(200), 40)
    prompt, first = random.integers(0, 3000, len(user)), random.integers(0, 2, len(user))
    left, right = 2 * prompt + first, 2 * prompt + 1 - first
    margin = ((style[left] - style[right]) * tastes[random.integers(0, 3, 200)][user]).sum(1)
    return answered(random, user, (left, right), margin, responses, prompt, asked)


def own_prompts(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """250 people of three tastes, more or less, compare four responses to each of six prompts of their own."""
    people, dim = 250, 48
    asked, style = random.standard_normal((6 * people, dim)), random.standard_normal((24 * people, dim))
    tastes = random.standard_normal(6) / 2 + random.standard_normal((3, 6))[random.integers(0, 3, people)]
    tastes += 0.3 * random.standard_normal((people, 6))
    user = np.repeat(np.arange(people), 30)
    prompt = 6 * user + random.integers(0, 6, len(user))
    left, right = (4 * prompt + side for side in pairs_of(random, len(user), 4))
    margin = ((style[left] - style[right])[:, :6] * tastes[user]).sum(1)
    return answered(random, user, (left, right), margin, 0.7 * np.repeat(asked, 4, axis=0) + style, prompt, asked)


def interactions(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """240 people of four groups, each of which likes items whose two attributes, its own two, agree."""
    bits = random.choice([-1.0, 1.0], (400, 6))
    items = bits @ random.standard_normal((6, D)) / 2 + 0.2 * random.standard_normal((400, D))
    rewards = np.stack([bits[:, i] * bits[:, j] for i, j in ((0, 1), (2, 3), (4, 5), (0, 3))])
    user = np.repeat(np.arange(240), 50)
    pairs, group = pairs_of(random, len(user), 400), random.integers(0, 4, 240)[user]
    return answered(random, user, pairs, rewards[group, pairs[0]] - rewards[group, pairs[1]], items)


def soft_labels(random: np.random.Generator) -> pal.EmbeddedComparisons:
    """200 people between three tastes who say how much they prefer one of two."""
    items, tastes = random.standard_normal((300, D)), random.standard_normal((3, D))
    people, user = random.dirichlet(np.full(3, 0.5), 200) @ tastes, np.repeat(np.arange(200), 30)
    left, right = pairs_of(random, len(user), 300)
    margin = ((items[left] - items[right]) * people[user]).sum(1)
    return answered(random, user, (left, right), margin, items, soft=True)


KINDS: dict[str, Callable[[np.random.Generator], pal.EmbeddedComparisons]] = {
    "ideal-points": ideal_points,
    "linear": linear,
    "linear-all-directions": lambda random: linear(random, people=150, answers=80, rank=D, common=2.0),
    "few-people": lambda random: linear(random, people=15, answers=300, rank=8),
    "groups": groups,
    "many-groups": lambda random: groups(random, k=10, people=600, answers=50),
    "few-answers": lambda random: groups(random, k=3, people=2500, answers=6, items=300),
    "long-tail": long_tail,
    "minority": lambda random: groups(random, k=2, shares=[0.9, 0.1]),
    "spam": lambda random: groups(random, k=3, spam=0.25),
    "alike": lambda random: groups(random, k=1),
    "votes": votes,
    "votes-shared-vector": lambda random: votes(random, shared=20.0),
    "prompts": prompts,
    "styles": styles,
    "own-prompts": own_prompts,
    "interactions": interactions,
    "soft-labels": soft_labels,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*KINDS, []], help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.names or KINDS:
        data = KINDS[name](np.random.default_rng(0))
        reserve = None if name in ("few-answers", "long-tail") else 20
        models = [*PEERS, "pal-a" if data.prompts is None else "pal"]
        measure(f"populations-{name}", data, models, seeds=arguments.seeds, shots=(0, 5, 20), reserve=reserve)
    draw()


def draw() -> None:
    """docs/benchmarks.md's table, from the results that are there."""
    from compare_table import populations, replace_part

    paths = {name: machine.RESULTS / f"populations-{name}.json" for name in KINDS}
    results = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    replace_part(machine.ROOT / "docs" / "benchmarks.md", "populations", populations(results))


if __name__ == "__main__":
    main()
