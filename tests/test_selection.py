import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import pal
from pal import _kinds, selection
from pal._training.run import Run
from pal.errors import InputError
from pal.selection import CANDIDATES
from pal.testing import tiny
from pal.training import Alike, Prompts, kinds, model_config


def settings(**values):
    return pal.TrainConfig(**{"max_steps": 60, "latent_dim": 4, **values})


def parts_of(kind="partition", seed=0, users=20, per_user=20, **values):
    population = pal.simulation.population("a", users, 3, 4, per_user, kind, seed, **values)
    return population.data.split(unseen_users=0.0, seed=seed)


@pytest.fixture(scope="module")
def town():
    return parts_of(users=30, per_user=60)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_kind_of_people_needs_one_prototype(seed):
    parts = parts_of("homogeneous", seed, users=40, per_user=50, noise=0.3)
    result = pal.fit(parts.train, parts.validation, pal.TrainConfig(n_prototypes="auto", max_steps=100, seed=seed))
    assert result.model.n_prototypes == 1
    assert result.model is result.pooled
    tried = result.table["n_prototypes"].to_list()
    assert tried == list(CANDIDATES[: len(tried)])
    assert result.table.filter("chosen")["n_prototypes"].to_list() == [1]


@pytest.mark.parametrize("truth", ["linear", "wave"])
def test_a_hidden_layer_learns_how_rewards_bend_and_is_no_worse_where_they_do_not(truth):
    random = np.random.default_rng(0)
    items = random.standard_normal((400, 20)).astype(np.float32)
    score = items @ random.standard_normal(20) / 4
    score = score if truth == "linear" else 3 * np.sin(2 * items[:, 0])
    left = random.integers(400, size=4000)
    right = (left + random.integers(1, 400, size=4000)) % 400
    names = [f"x{i}" for i in range(400)]
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i % 80}" for i in range(4000)],
        left_id=[names[i] for i in left],
        right_id=[names[i] for i in right],
        label=(random.random(4000) < 1 / (1 + np.exp(score[right] - score[left]))).astype(float),
    )
    parts = pal.embed(table, embeddings=(names, items)).split(unseen_users=0.0)
    found, linear, random = (
        pal.evaluate(
            pal.fit(parts.train, parts.validation, pal.TrainConfig(n_prototypes=1, **change)).model, parts.test
        )
        for change in ({}, {"map": "linear"}, {"init": "random"})
    )
    assert found.log_loss < linear.log_loss + (0.001 if truth == "linear" else -0.05)
    assert found.log_loss < random.log_loss + (-0.001 if truth == "linear" else 0.01)


def told(losses):
    """A stage that trains nothing: a loss for each (model, prompt, map, k), or (map, k); and what it was asked."""
    asked = []

    def stage(config, k, begin, kind=""):
        asked.append((k, config.map, begin, kind))
        exact = (config.model, config.prompt, config.map, k)
        noise = np.random.default_rng(len(asked)).normal(0, 0.05, 2000)  # of answers
        lost = torch.from_numpy(losses.get(exact, losses.get((config.map, k), 0.2)) + noise - noise.mean())
        metrics = {"validation_log_loss": float(lost.mean()), "validation_accuracy": 1.0, "seconds": 0.0}
        made = SimpleNamespace(config=config, n_prototypes=k, users=SimpleNamespace(weights=torch.eye(k)))
        shown = pl.DataFrame({"step": [0]})
        return SimpleNamespace(
            model=made,
            begun=made,
            validation_loss=lost,
            shared_loss=lost,
            leaning=0.0,
            metrics=metrics,
            history=shown,
        )

    return stage, asked


USER = np.arange(2000) % 100


@pytest.mark.parametrize(
    ("losses", "pooled"),
    [({("mlp", 1): 0.6, ("linear", 1): 0.5}, "linear"), ({("mlp", 1): 0.5, ("linear", 1): 0.6}, "mlp")],
)
def test_others_grow_from_the_pooled_model_that_has_their_map(losses, pooled):
    stage, asked = told(losses)
    result = selection.explore(stage, [pal.TrainConfig(model="b", n_prototypes=(1, 2))], None, USER, 10_000, nobody)
    assert [(k, which, kind) for k, which, _, kind in asked] == [
        (1, "mlp", ""),
        (1, "linear", "-linear"),
        (2, "mlp", ""),
    ]
    assert asked[2][2].config.map == "mlp"
    assert result.pooled.config.map == pooled


def nobody():
    """No training answers."""
    return Alike(*(np.zeros(0) for _ in range(3)))


def kinds_of(**settings):
    config = pal.TrainConfig(map="linear", **settings)
    return [replace(config, model="b"), *(replace(config, model="a", prompt=p) for p in ("none", "concatenate"))]


@pytest.mark.parametrize(
    ("none", "concatenate", "chosen"),
    [
        ((0.60, 0.50), (0.60, 0.51), ("a", "none")),
        ((0.60, 0.52), (0.60, 0.51), ("a", "concatenate")),
        ((0.60, 0.549), (0.60, 0.549), ("b", None)),  # no better than chance would have it
        ((0.70, 0.50), (0.70, 0.50), ("b", None)),  # not tried with three: much worse for all together
    ],
)
@pytest.mark.parametrize("asked", [3, "auto", (1, 3, 5)])
def test_where_prompts_vary_model_b_is_left_for_one_that_is_clearly_better(
    monkeypatch, none, concatenate, chosen, asked
):
    monkeypatch.setattr(selection, "plurality", lambda *_: 0.01)
    losses = {("b", None, "linear", 1): 0.6, ("linear", 5): 0.9}
    losses |= {("b", None, "linear", k): 0.55 for k in (2, 3, 5, 8)}
    for prompt, (one, three) in (("none", none), ("concatenate", concatenate)):
        losses |= {("a", prompt, "linear", 1): one} | {("a", prompt, "linear", k): three for k in (2, 3, 5, 8)}
    stage, calls = told(losses)
    result = selection.explore(stage, kinds_of(n_prototypes=asked), None, USER, 10_000, nobody)
    config = result.model.config
    assert (config.model, config.prompt) == chosen
    assert result.pooled.config.model == chosen[0]
    assert len({(k, kind) for k, _, _, kind in calls}) == len(calls)  # nothing twice
    tried = {k for k, _, _, kind in calls if kind.startswith("-a-none")}
    assert (3 in tried) == (none[0] < 0.7)


@pytest.mark.parametrize(
    ("first", "changes", "settings"),
    [
        (("a", "none"), {}, {}),
        (("b", None), {}, {"init": "random"}),  # as in the paper
        (("b", None), {"responses": 2}, {}),  # votes
        (("b", None), {"users": 1}, {}),
        (("b", None), {"prompts": 60}, {}),  # each is asked of two
    ],
)
def test_where_people_have_prompts_of_their_own_a_without_them_comes_first(first, changes, settings):
    sizes = {"n": 120, "users": 6, "responses": 300, "prompts": 120} | changes
    data = tiny(**sizes)
    asked = (np.arange(120) % sizes["prompts"]).astype(np.int32)
    user = (np.arange(120) // 20 % sizes["users"]).astype(np.int32)
    data = replace(data, comparisons=replace(data.comparisons, prompt=asked, user=user))
    config = kinds(data, pal.TrainConfig(**settings), Prompts.of(data))[0]
    assert (config.model, config.prompt) == first
    assert model_config(data, pal.TrainConfig(**settings), 2).model == first[0]


def test_people_are_not_learned_by_heart_through_prompts_of_their_own():
    """Each person has a prompt of their own and twelve responses to it; three tastes for what responses are like."""
    random = np.random.default_rng(1)
    people, dim = 60, 16
    asked, style = random.standard_normal((people, dim)), random.standard_normal((12 * people, dim))
    user, sides = np.repeat(np.arange(people), 25), random.integers(12, size=25 * people)
    left, right = 12 * user + sides, 12 * user + (sides + random.integers(1, 12, size=len(user))) % 12
    taste = 2 * random.standard_normal((3, 4))[random.integers(3, size=people)][user]
    margin = ((style[left] - style[right])[:, :4] * taste).sum(1)
    responses = [f"x{i}" for i in range(len(style))]
    prompts = [f"q{i}" for i in range(len(asked))]
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user],
        left_id=[responses[i] for i in left],
        right_id=[responses[i] for i in right],
        prompt_id=[prompts[i] for i in user],
        label=(random.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(float),
    )
    vectors = np.concatenate([np.repeat(0.7 * asked, 12, axis=0) + style, asked]).astype(np.float32)
    parts = pal.embed(table, embeddings=([*responses, *prompts], vectors)).split(unseen_users=0.0)
    config = pal.TrainConfig(n_prototypes=3, map="linear", latent_dim=8, max_steps=200)
    ours, usual = (pal.fit(parts.train, parts.validation, replace(config, model=m)).model for m in (None, "b"))
    assert (ours.config.model, ours.config.prompt) == ("a", "none")
    ours, usual = (pal.evaluate(model, parts.test, bootstrap=0).log_loss for model in (ours, usual))
    assert ours < usual - 0.05


@pytest.mark.parametrize("leaning", [0.0, 9.0])
def test_one_prototype_is_the_model_that_asking_for_one_gives(monkeypatch, leaning):
    """Three prototypes speak for another kind, but there is no plurality."""
    losses = {("b", None, "linear", 1): 0.6} | {("b", None, "linear", k): 0.6 for k in (2, 3)}
    losses |= {("a", "none", "linear", 1): 0.6} | {("a", "none", "linear", k): 0.5 for k in (2, 3)}
    losses |= {("a", "concatenate", "linear", k): 0.9 for k in (1, 2, 3)}

    def fitted(asked):
        stage, calls = told(losses)

        def leans(*given):
            made = stage(*given)
            made.leaning = leaning
            return made

        return selection.explore(leans, kinds_of(n_prototypes=asked), None, USER, 10_000, nobody), calls

    monkeypatch.setattr(selection, "plurality", lambda *_: 0.5)
    (result, calls), (one, _) = fitted((1, 3)), fitted(1)
    assert result.model.config == replace(one.model.config, n_prototypes=(1, 3))
    assert result.model.config.model == result.pooled.config.model == "b"
    assert bool(result.model.config.side_bias) == (leaning > 0)
    assert len({(k, kind) for k, _, _, kind in calls}) == len(calls)  # nothing twice
    monkeypatch.setattr(selection, "plurality", lambda *_: 0.01)
    assert fitted((1, 3))[0].pooled.config.model == "a"  # what the others grew from


def test_of_one_person_model_b_is_kept():
    """Nothing is known of how far chance would take it."""
    stage, _ = told(
        {("b", None, "linear", 1): 0.6, ("b", None, "linear", 3): 0.6, ("linear", 3): 0.5, ("linear", 1): 0.6}
    )
    one = np.zeros(2000, int)
    assert selection.explore(stage, kinds_of(n_prototypes=3), None, one, 10_000, nobody).model.config.model == "b"


@pytest.mark.parametrize("tastes", ["responses", "votes"])
def test_the_model_is_the_one_that_data_ask_for(tastes, tmp_path):
    """Prompts vary in both; in the first nothing turns on them, in the second everything does."""
    random = np.random.default_rng(0)
    people, n, dim = 60, 6400, 12  # so many that none is tried from nowhere
    user, prompt = np.arange(n) % people, random.integers(500 if tastes == "responses" else 60, size=n)
    if tastes == "responses":  # nobody is asked the same twice
        prompt = np.stack([random.permutation(500) for _ in range(people)])[user, np.arange(n) // people]
    prompts = random.standard_normal((500, dim)).astype(np.float32)
    responses = random.standard_normal((1000 if tastes == "responses" else 2, dim)).astype(np.float32)
    taste = random.standard_normal((3, dim))[user % 3]
    if tastes == "responses":
        left, right = 2 * prompt, 2 * prompt + 1
        margin = ((responses[left] - responses[right]) * taste).sum(1)
    else:
        left, right = np.zeros(n, int), np.ones(n, int)
        margin = (prompts[prompt] * taste).sum(1)
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user],
        left_id=[f"x{i}" for i in left],
        right_id=[f"x{i}" for i in right],
        label=(random.random(n) < 1 / (1 + np.exp(-margin))).astype(float),
        prompt_id=[f"q{i}" for i in prompt],
    )
    ids = [*(f"x{i}" for i in range(len(responses))), *(f"q{i}" for i in range(500))]
    data = pal.embed(table, embeddings=(ids, np.concatenate([responses, prompts])))
    parts = data.split(unseen_users=0.0)
    settings = pal.TrainConfig(n_prototypes=3, latent_dim=8, hidden_dim=32, max_steps=400)
    result = pal.fit(parts.train, parts.validation, settings, checkpoint=tmp_path)
    config = result.model.config
    assert (config.model == "a") == (tastes == "responses")
    # the usual ones are among those that were tried, and their loops are not run again
    usual = pal.fit(parts.train, parts.validation, replace(settings, model="b"), checkpoint=tmp_path).model
    ours, others = (pal.evaluate(model, parts.test, bootstrap=0).log_loss for model in (result.model, usual))
    assert ours <= others - (0.02 if tastes == "responses" else 0.0)
    assert pal.evaluate(result.model, parts.test).accuracy > pal.evaluate(result.pooled, parts.test).accuracy + 0.05
    assert result.pooled.config.model == result.model.config.model
    assert np.isfinite(pal.predict(result.model, parts.test)).all()


@pytest.mark.parametrize(("people", "unused"), [((50, 50, 20), False), ((60, 58, 2), True), ((60, 60, 0), True)])
def test_a_prototype_that_is_hardly_anybodys_first_is_unused(people, unused):
    weights = torch.eye(3).repeat_interleave(torch.tensor(people), dim=0) * 0.6 + 0.4 / 3
    assert _kinds._unused(SimpleNamespace(users=SimpleNamespace(weights=weights), n_prototypes=3)) is unused


@pytest.mark.parametrize(
    ("asked", "unused", "again"), [(3, True, True), (3, False, False), ("auto", True, False), ((1, 3), True, False)]
)
def test_a_number_that_was_asked_for_and_is_not_used_is_tried_from_nowhere(
    town, monkeypatch, tmp_path, asked, unused, again
):
    monkeypatch.setattr(_kinds, "_FEW", 0)
    monkeypatch.setattr(selection, "CANDIDATES", (1, 3))
    monkeypatch.setattr(_kinds, "_unused", lambda model: unused)
    config = settings(n_prototypes=asked, max_steps=150, map="linear")
    result = pal.fit(town.train, town.validation, config, checkpoint=tmp_path)
    assert result.table["gain"][-1] > result.table["gain_se"][-1]  # growing gained
    kinds = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert ("prototypes-3-random" in kinds) is again


def test_several_kinds_of_people_need_several(monkeypatch):
    monkeypatch.setattr(selection, "CANDIDATES", (1, 2, 3, 5))
    # people for whom two prototypes do not nearly do: the valley has a clear bottom
    town = parts_of(users=30, per_user=60, seed=1)
    config = settings(n_prototypes="auto", map="linear", max_steps=150, curvature=False)
    result = pal.fit(town.train, town.validation, config)
    assert result.model.n_prototypes > 1
    chosen = result.table.filter("chosen").row(0, named=True)
    assert chosen["n_prototypes"] == result.model.n_prototypes
    assert chosen["gain"] > chosen["gain_se"] > 0
    assert chosen["validation_log_loss"] == min(result.table["validation_log_loss"])  # this valley has a clear bottom
    by_user = pal.evaluate(result.model, town.test).accuracy_by_user
    assert by_user > pal.evaluate(result.pooled, town.test).accuracy_by_user + 0.05
    first = result.table.row(0, named=True)
    assert (first["n_prototypes"], first["gain"], first["gain_se"]) == (1, 0, 0)


def test_a_choice_among_some():
    parts = parts_of()
    result = pal.fit(parts.train, parts.validation, settings(n_prototypes=(3, 2, 3)))
    assert sorted(result.models) == [1, 2, 3]  # the pooled model is the start of the others
    assert result.table["n_prototypes"].to_list() == [1, 2, 3]
    assert result.model.n_prototypes in (2, 3)
    assert result.model is result.models[result.model.n_prototypes]
    assert result.history["n_prototypes"].unique().sort().to_list() == [1, 2, 3]
    assert result.history["validation_log_loss"].is_finite().all()


def test_models_that_were_not_chosen_are_made_when_asked_for(monkeypatch):
    parts, over, go_over = parts_of(), [], Run.go_over

    def watched(run, passes):
        over.extend([run.shape.n_prototypes] * (passes > 1))  # one alone: again, from where it was
        return go_over(run, passes)

    monkeypatch.setattr(Run, "go_over", watched)
    first, second = (pal.fit(parts.train, parts.validation, settings(n_prototypes=(1, 2, 3))) for _ in range(2))
    chosen = first.model.n_prototypes
    assert over == [chosen, chosen]
    other = 2 if chosen == 3 else 3
    kept = pickle.loads(pickle.dumps(second))
    assert sorted(kept.models) == sorted([*over[2:], chosen]) == [1, 2, 3]
    assert np.array_equal(first.models[other].predict(parts.test), kept.models[other].predict(parts.test))
    assert first.models[other] is first.models[other]
    assert over[4:] == [other]
    assert 1 in first.models
    assert 7 not in first.models
    assert over[5:] == []  # what is looked for is not made
    with torch.no_grad():
        assert first.pooled is first.models[1]
    assert over[5:] == [1]


def test_items_that_share_a_vector_are_told_of():
    data = tiny(300)
    few = replace(data, responses=np.ascontiguousarray(data.responses[np.arange(len(data.responses)) % 3]))
    with pytest.warns(UserWarning, match="responses have the vector of another, and a model cannot tell") as told:
        pal.fit(few, None, settings(n_prototypes=1, max_steps=2))
    assert told[0].filename == __file__


def test_a_number_is_kept_whatever_validation_says():
    parts = parts_of("homogeneous")
    for init in ("grow", "random"):
        result = pal.fit(parts.train, parts.validation, settings(n_prototypes=2, init=init))
        assert result.model.n_prototypes == 2
        assert (result.pooled is None) == (init == "random")
    assert pal.fit(parts.train, parts.validation, settings(n_prototypes=1)).model.n_prototypes == 1


@pytest.mark.parametrize("empty", [False, True])
def test_without_validation_a_tenth_is_held_out(empty):
    data = parts_of().train
    nothing = data.take(np.array([], dtype=int)) if empty else None
    result = pal.fit(data, nothing, settings(n_prototypes=(1, 2)))
    assert result.table["validation_log_loss"].is_finite().all()
    assert set(result.model.user_ids) == set(data.comparisons.user_ids)


def test_seeds_reproduce():
    parts = parts_of()
    config = settings(n_prototypes=2, max_steps=30)
    same = [pal.fit(parts.train, parts.validation, replace(config, seed=s)).model for s in (3, 3, 4)]
    predictions = [pal.predict(model, parts.test) for model in same]
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert not np.array_equal(predictions[0], predictions[2])


def test_going_on_from_a_model_keeps_people_and_prototypes():
    parts = parts_of()
    users = parts.train.comparisons.user
    early, late = parts.train.take(users < 14), parts.train.take(users >= 10)
    first = pal.fit(early, None, settings(n_prototypes=3)).model
    before = pal.predict(first, parts.test)
    result = pal.fit(late, None, settings(n_prototypes="auto"), start=first)
    assert result.model.n_prototypes == 3
    assert list(result.models) == [3]
    assert set(result.model.user_ids) == set(parts.train.comparisons.user_ids)
    np.testing.assert_array_equal(pal.predict(first, parts.test), before)  # the start is not changed


def test_what_cannot_be_fitted():
    data = tiny()
    for bad in ((), (0,), "many", 0, True, (1, 2.5)):
        with pytest.raises(InputError, match="n_prototypes"):
            pal.TrainConfig(n_prototypes=bad)
    with pytest.raises(InputError):
        pal.fit(data.take(np.array([], dtype=int)), None, settings(n_prototypes=1))


@pytest.mark.parametrize(
    "asked", [{"model": "b"}, {"map": "linear"}, {"latent_dim": 7}, {"n_prototypes": 5}, {"partition": True}]
)
def test_a_start_is_what_it_is(asked):
    data = tiny()
    start = pal.fit(data, None, pal.TrainConfig(model="a", n_prototypes=2, max_steps=20)).model
    with pytest.raises(InputError, match=f"to start from has {next(iter(asked))}="):
        pal.fit(data, None, pal.TrainConfig(**asked), start=start)


def test_going_on_needs_no_settings_again():
    data = tiny()
    made = {"model": "a", "map": "linear", "latent_dim": 3, "prompt": "none"}
    start = pal.fit(data, None, pal.TrainConfig(**made, n_prototypes=2, max_steps=20)).model
    for config in (pal.TrainConfig(max_steps=20), pal.TrainConfig(**made, max_steps=20)):
        assert pal.fit(data, None, config, start=start).model.config.map == "linear"


def test_comparisons_are_embedded_first():
    data = tiny()
    model = pal.fit(data, None, settings(n_prototypes=1)).model
    for call in (
        lambda it: pal.fit(it),
        lambda it: pal.select(it),
        lambda it: pal.evaluate(model, it),
        lambda it: pal.adapt(model, it),
        lambda it: pal.baselines.compare(it, ["majority"]),
        lambda it: pal.baselines.fit("majority", it),
        lambda it: pal.next_comparison(model, None, it),
    ):
        with pytest.raises(InputError, match=r"call pal\.embed first"):
            call(data.comparisons)


def test_a_start_on_other_embeddings_is_refused():
    start = pal.fit(tiny(), None, settings(model="b", n_prototypes=2)).model
    with pytest.raises(InputError, match="dimension"):
        pal.fit(tiny(dim=9), None, settings(), start=start)


def test_weights_that_are_not_about_one_are_said_to_tell_little():
    data = tiny(60)
    light = replace(data, comparisons=replace(data.comparisons, weight=np.full(60, 1 / 60, np.float32)))
    with pytest.warns(UserWarning, match=r"weights of answers are 0.0167 on average: .* divide them by their mean"):
        pal.fit(light, None, pal.TrainConfig(n_prototypes=1, max_steps=2))
