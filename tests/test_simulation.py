import numpy as np
import pytest

from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, HashingEncoder, embed
from pal.errors import InputError
from pal.simulation import Population, _statements, demo, population


def test_shapes_and_ids_of_model_a():
    people = population()
    rows = people.comparisons
    assert isinstance(people, EmbeddedComparisons)
    assert len(people) == len(rows) == 100 * 100
    assert people.responses.shape == (20_000, 16)
    assert people.responses.dtype == np.float32
    assert people.prompts is None
    assert rows.prompts is None
    assert people.weights.shape == (100, 3)
    assert people.prototypes.shape == (3, 16)
    assert people.map.shape == (16, 16)
    assert people.ideal_points.shape == (100, 16)
    assert rows.user_ids.to_list()[:2] == ["u0001", "u0002"]
    assert rows.responses.ids[0] == "x00001"
    assert rows.responses.ids.n_unique() == 20_000
    assert rows.responses.kind == "id"
    assert rows.label.dtype == np.float32
    assert set(np.unique(rows.label)) == {0.0, 1.0}


def test_draws_are_those_of_the_paper():
    people = population(n_users=200, dim=8, n_prototypes=200, delta=0.0, per_user=50, seed=4)
    assert people.responses.var() == pytest.approx(1 / 8, rel=0.05)
    assert people.prototypes.var() == pytest.approx(1 / 8, rel=0.15)
    assert people.map.var() == pytest.approx(1, rel=0.5)
    assert people.comparisons.label.mean() == pytest.approx(0.5, abs=0.02)


def test_labels_of_model_a_follow_distances_to_ideal_points():
    for kind in ("partition", "mixture", "homogeneous"):
        people = population(n_users=30, per_user=40, kind=kind, seed=2)
        rows = people.comparisons
        latent = people.responses.astype(float) @ people.map.T
        mixed = (people.weights @ people.prototypes) @ people.map.T  # f*(P w)
        away = [np.linalg.norm(latent[side] - mixed[rows.user], axis=1) for side in (rows.left, rows.right)]
        assert (rows.label == (away[0] < away[1])).all()
        assert people.margins() == pytest.approx(away[1] ** 2 - away[0] ** 2)


def test_labels_of_model_b_follow_cosines():
    people = population("b", n_users=10, per_user=30, kind="mixture", dim=5, seed=3)
    rows = people.comparisons
    assert people.prompts.shape == (300, 5)
    assert rows.prompts.ids[0] == "q0001"
    assert people.prototypes.shape == (3, 5, 5)

    def unit(x):
        return x / np.linalg.norm(x)

    for row in range(0, 300, 7):
        left, right = (people.responses[side[row]].astype(float) for side in (rows.left, rows.right))
        prompt = people.prompts[rows.prompt[row]].astype(float)
        ideal = sum(
            w * unit(g @ prompt) for w, g in zip(people.weights[rows.user[row]], people.prototypes, strict=True)
        )
        margin = (unit(people.map @ left) - unit(people.map @ right)) @ ideal
        assert people.margins()[row] == pytest.approx(margin)
        assert rows.label[row] == float(margin > 0)
    with pytest.raises(InputError, match="an ideal point for each prompt"):
        _ = people.ideal_points


def test_prototypes_keep_their_distance():
    for seed in range(5):
        points = population(n_users=4, per_user=1, n_prototypes=4, dim=3, delta=1.2, seed=seed).prototypes
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        assert distance[np.triu_indices(4, 1)].min() >= 1.2
    with pytest.raises(InputError, match=r"no 50 prototypes of dimension 2 at distance 3\.0"):
        population(n_prototypes=50, dim=2, delta=3.0)


@pytest.mark.parametrize(("n_users", "k"), [(99, 3), (100, 3), (2, 3), (7, 1)])
def test_a_partition_is_even(n_users, k):
    people = population(n_users=n_users, n_prototypes=k, per_user=1)
    counts = np.bincount(people.assignment, minlength=k)
    assert counts.max() - counts.min() <= 1
    assert (people.weights == np.eye(k)[people.assignment]).all()


def test_mixtures_are_uniform_on_the_simplex():
    people = population(n_users=4000, per_user=1, kind="mixture")
    assert people.weights.sum(1) == pytest.approx(1)
    assert people.weights.min() >= 0
    assert people.weights.mean(0) == pytest.approx(1 / 3, abs=0.02)
    assert people.weights.var(0) == pytest.approx(1 / 18, abs=0.005)
    assert (people.assignment == people.weights.argmax(1)).all()


def test_homogeneous_people_are_alike():
    people = population(n_users=20, per_user=5, kind="homogeneous")
    assert (people.weights == 1).all()
    assert people.weights.shape == (20, 1)


def test_seeds():
    one, same, other = (population(noise=0.3, seed=seed, n_users=10) for seed in (1, 1, 2))
    assert (one.responses == same.responses).all()
    assert (one.comparisons.label == same.comparisons.label).all()
    assert not np.allclose(one.prototypes, other.prototypes)


def test_more_answers_and_more_users_of_the_same_population():
    small = population("b", n_users=10, per_user=5, kind="mixture")
    large = population("b", n_users=30, per_user=50, kind="mixture")
    assert (small.prototypes == large.prototypes).all()
    assert (small.map == large.map).all()
    assert (small.weights == large.weights[:10]).all()
    small, large = population(n_users=10, per_user=5), population(n_users=31, per_user=50)
    assert (small.assignment == large.assignment[:10]).all()


def test_answers_of_each_user():
    counts = [3, 1, 7]
    people = population(n_users=3, per_user=counts)
    assert people.comparisons.user_counts().tolist() == counts
    assert population(n_users=3, per_user=np.array(counts)).comparisons.user_counts().tolist() == counts


def test_catalogues():
    people = population("b", n_users=40, per_user=50, n_items=7, n_prompts=4)
    rows = people.comparisons
    assert people.responses.shape == (7, 16)
    assert people.prompts.shape == (4, 16)
    assert (rows.left != rows.right).all()
    for side in (rows.left, rows.right):
        counts = np.bincount(side, minlength=7)
        assert counts / counts.mean() == pytest.approx(1, abs=0.25)
    fresh = population(n_users=4, per_user=5).comparisons
    assert sorted([*fresh.left, *fresh.right]) == list(range(40))


@pytest.mark.parametrize("model", ["a", "b"])
def test_noise_is_calibrated(model):
    people = population(model, n_users=400, noise=0.5)
    chance, label = people.probabilities(), people.comparisons.label
    for low in np.arange(0, 1, 0.2):
        there = (chance >= low) & (chance < low + 0.2)
        assert label[there].mean() == pytest.approx(chance[there].mean(), abs=0.02)
    best = np.maximum(chance, 1 - chance).mean()
    assert ((chance > 0.5) == (label == 1)).mean() == pytest.approx(best, abs=0.01)
    assert 0.7 < best < 0.85
    none = population(model, n_users=5)
    assert none.temperature == 0
    assert ((none.probabilities() > 0.5) == (none.comparisons.label == 1)).all()


def test_knowing_people_helps():
    """Pooled truth is wrong about one answer in four where the paper's K = 1 is (.76)."""
    scores = []
    for seed in range(3):
        people = population(seed=seed)
        latent = people.responses.astype(float) @ people.map.T
        middle = people.ideal_points.mean(0)
        away = np.square(latent - middle).sum(1)
        rows = people.comparisons
        scores.append(((away[rows.left] < away[rows.right]) == rows.label).mean())
    assert 0.65 < np.mean(scores) < 0.87


def test_parts_keep_the_truth():
    people = population(n_users=20, per_user=30)
    parts = people.split(unseen_users=0.2, test=0.2, validation=0.1, seed=0)
    assert isinstance(parts.test, Population)
    assert ((parts.test.margins() > 0) == (parts.test.comparisons.label == 1)).all()
    assert parts.unseen.comparisons.n_users == 4
    alone = people.data
    assert type(alone) is EmbeddedComparisons
    assert alone.comparisons is people.comparisons
    assert alone.responses is people.responses
    assert "array" not in repr(people)


def test_vectors_are_found_by_id():
    people = population("b", n_users=3, per_user=4)
    table = Comparisons.from_frame(people.comparisons.to_frame())
    ids = [*people.comparisons.responses.ids, *people.comparisons.prompts.ids]
    again = embed(table, embeddings=(ids, np.vstack([people.responses, people.prompts])))
    assert (again.responses == people.responses[: len(again.responses)]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "c"}, "model='c' is not known: use 'a' or 'b'"),
        ({"kind": "mix"}, "kind='mix' is not known: use 'partition', 'mixture' or 'homogeneous'"),
        ({"n_users": 0}, "n_users must be a whole number of at least 1, found 0"),
        ({"n_prototypes": 0}, "n_prototypes must be a whole number of at least 1"),
        ({"dim": 0}, "dim must be a whole number of at least 1"),
        ({"delta": -1.0}, "delta must be a number of at least 0"),
        ({"noise": -0.1}, "noise must be a number of at least 0"),
        ({"noise": float("nan")}, "noise must be a number of at least 0, found nan"),
        ({"n_items": 1}, "n_items must be a whole number of at least 2"),
        ({"model": "b", "n_prompts": 0}, "n_prompts must be a whole number of at least 1"),
        ({"model": "a", "n_prompts": 5}, "n_prompts is for model 'b'"),
        ({"per_user": 0}, "per_user must be a whole number of at least 1"),
        ({"per_user": [1, 2]}, "or 100 of them"),
        ({"per_user": 2.5}, "per_user must be a whole number"),
        ({"per_user": []}, "per_user must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        population(**options)


def test_the_town():
    town = demo()
    assert town.n_users == 300
    assert len(town.prompts) == 250
    assert town.responses.ids.to_list() == ["Agree", "Disagree"]
    counts = town.user_counts()
    assert counts.min() >= 40
    assert counts.max() <= 80
    assert 0.05 < (town.label == 0.5).mean() < 0.15
    assert 0.5 < town.label.mean() < 0.75
    frame = town.to_frame()
    assert frame.select("user_id", "prompt").is_duplicated().sum() == 0
    assert demo(seed=1).to_frame().equals(demo(seed=1).to_frame())
    assert not demo(seed=1).to_frame().equals(frame)
    assert demo(n_users=7).n_users == 7
    with pytest.raises(InputError, match="n_users must be a whole number of at least 1"):
        demo(n_users=0)


def test_the_town_disagrees_and_agrees():
    statements = _statements()
    leanings = statements.select("gardeners", "keepers", "makers").to_numpy()
    assert statements["statement"].n_unique() == statements.height == 250
    assert (statements.group_by("topic").len()["len"] == 10).all()
    assert abs(leanings).max() <= 1
    sides = np.sign(leanings)
    assert 0.25 < (abs(sides.sum(1)) == 3).mean() < 0.45  # all three groups on one side
    assert (leanings.mean(1) < 0).sum() >= 10
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(leanings[:, one] - leanings[:, other]).mean() > 0.5

    town = demo()
    decided = town.label != 0.5
    prompt, label = town.prompt[decided], town.label[decided]
    most = np.bincount(prompt, label) / np.bincount(prompt) > 0.5
    assert 0.65 < (most[prompt] == label).mean() < 0.78  # the room that personal models have


def test_statements_that_share_words_share_leanings():
    statements = _statements()
    leanings = statements.select("gardeners", "keepers", "makers").to_numpy()
    leanings = leanings - leanings.mean(1, keepdims=True)
    vectors = HashingEncoder().encode(statements["statement"].to_list()).astype(float)
    kernel = vectors @ vectors.T
    hat = kernel @ np.linalg.inv(kernel + np.eye(len(kernel)))
    own = np.diag(hat)[:, None]
    left_out = (hat @ leanings - own * leanings) / (1 - own)  # ridge regression without the statement itself
    assert np.corrcoef(left_out.ravel(), leanings.ravel())[0, 1] > 0.5
