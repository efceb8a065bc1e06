from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest
import torch

import pal
from pal.embeddings import HashingEncoder
from pal.model import ModelConfig, make_prototypes
from pal.testing import tiny
from pal.users import UserWeights

D = 6


def model_of(users=("u1", "u2"), seed=0, reliability=None, **settings):
    """A model with random parameters: what it is, not how it came about, is tested here."""
    config = ModelConfig(**{"model": "a", "n_prototypes": 3, "map": "linear", "response_dim": D, **settings})
    K, n = config.n_prototypes, len(users)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.softmax(torch.randn(n, K, generator=generator), 1)
    table = UserWeights(
        pl.Series("user_id", list(users)),
        weights,
        torch.arange(n) + 1,
        torch.ones(n) if reliability is None else torch.tensor(reliability),
    )
    return pal.RewardModel(config, make_prototypes(config, generator), table, torch.full((K,), 1 / K))


B = {"model": "b", "prompt": "separate", "prompt_dim": D}
JOINT = {"encoder": "hashing", "prompt": "joint"}


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "c"}, "model='c' is not known: use 'a', 'b' or 'linear'"),
        ({"ideal_point": "x"}, "ideal_point='x' is not known: use 'latent', 'mixture_of_maps' or 'map_of_mixture'"),
        ({"n_prototypes": 0}, "n_prototypes must be a whole number of at least 1, found 0"),
        ({"latent_dim": 2.5}, "latent_dim must be a whole number of at least 1, found 2.5"),
        ({"hidden_dim": True}, "hidden_dim must be a whole number of at least 1, found True"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1, found 1.0"),
        ({"model": "b"}, "model 'b' needs prompts"),
        ({"loss": "squared"}, "loss='squared' is not known"),
    ],
)
def test_a_config_says_what_is_wrong(change, says):
    with pytest.raises(pal.InputError) as error:
        ModelConfig(**{"model": "a", "n_prototypes": 2, "map": "linear", "response_dim": D, **change})
    assert says in one_line(error)


def test_a_config_is_strict_about_its_keys():
    values = asdict(model_of().config)
    assert ModelConfig.from_dict(values) == model_of().config
    for odd in ({**values, "colour": 1}, {k: v for k, v in values.items() if k != "map"}):
        with pytest.raises(pal.SavedModelError, match="are missing or unknown"):
            ModelConfig.from_dict(odd)
    with pytest.raises(pal.SavedModelError, match=r"config\.json: n_prototypes must be"):
        ModelConfig.from_dict({**values, "n_prototypes": "3"})


def test_reward_of_a_user_of_weights_and_of_nobody():
    model = model_of()
    x = np.random.default_rng(0).normal(size=(5, D)).astype(np.float32)
    rho = model.prototype_rewards(None, torch.from_numpy(x))
    for row, user in enumerate(["u1", "u2"]):
        expected = (rho * model.users.weights[row]).sum(1).numpy()
        np.testing.assert_allclose(model.reward(user, responses=x), expected, rtol=1e-5)
    np.testing.assert_allclose(model.reward(responses=x), rho.mean(1).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.reward(responses=x, weights=[0, 1, 0]), rho[:, 1].numpy(), rtol=1e-5)
    np.testing.assert_allclose(model.reward("u1", responses=torch.from_numpy(x)), model.reward("u1", responses=x))
    assert model.reward("u1", responses=[]).shape == (0,)


def test_reliability_multiplies_rewards_and_margins():
    plain, noisy = model_of(["u0", "u1"]), model_of(["u0", "u1"], reliability=[1.0, 3.0])
    x = np.random.default_rng(0).normal(size=(5, D)).astype(np.float32)
    np.testing.assert_allclose(noisy.reward("u1", responses=x), 3 * plain.reward("u1", responses=x), rtol=1e-5)
    data = tiny(40, users=3, prompts=0)  # u2 is unseen
    factor = torch.tensor([1.0, 3.0, 1.0])[torch.from_numpy(data.comparisons.user.astype(int))]
    torch.testing.assert_close(noisy.margins(data), factor * plain.margins(data))


def test_probabilities_are_calibrated_margins():
    model = model_of(slope=0.5, side_bias=0.3)
    data = tiny(40, prompts=0)
    expected = torch.sigmoid(0.5 * model.margins(data) + 0.3)
    np.testing.assert_allclose(model.predict(data), expected.numpy())
    assert model.predict(data).dtype == np.float32


@pytest.mark.parametrize(
    "weights",
    [
        [0.5, 0.5],
        [0.5, 0.6, 0.2],
        [-0.1, 0.6, 0.5],
        [np.nan, 0.5, 0.5],
        "abc",
    ],
)
def test_weights_that_are_not_on_the_simplex_are_refused(weights):
    with pytest.raises(pal.InputError, match="weights must be 3 numbers of at least 0 that sum to 1"):
        model_of().reward(responses=np.zeros((1, D), np.float32), weights=weights)


def test_an_unknown_user_is_told_what_to_do():
    with pytest.raises(pal.UnknownUserError) as error:
        model_of().reward("u9", responses=np.zeros((1, D), np.float32))
    assert one_line(error) == "user 'u9' is unseen: call pal.adapt with some of their comparisons, or pass weights="


def test_numbers_of_numpy_are_ids_as_well():
    model = model_of([1, 2])
    x = np.zeros((2, D), np.float32)
    for kind in (np.int64, np.int32, np.uint8):
        assert np.array_equal(model.reward(kind(2), responses=x), model.reward(2, responses=x))
    assert model.without_users(np.array([2])).user_ids.to_list() == [1]


def test_a_margin_needs_as_many_of_both_sides():
    model, weights = model_of(), np.full((5, 3), 1 / 3)
    for right in (1, 2):
        with pytest.raises(pal.InputError, match=f"left has 5 embeddings and right {right}"):
            model.margin(None, np.ones((5, D)), np.ones((right, D)), weights)


@pytest.mark.parametrize(
    ("settings", "arguments", "says"),
    [
        ({}, {"responses": np.zeros((2, 5), np.float32)}, r"embeddings of responses must be \(B, 6\), found \(2, 5\)"),
        ({}, {"responses": np.zeros(6, np.float32)}, r"must be \(B, 6\), found \(6,\)"),
        ({}, {"responses": ["a", "b"]}, "trained on own vectors: pass responses as embeddings"),
        ({}, {"responses": "one text"}, "a list of texts, or embeddings"),
        ({"encoder": "hashing"}, {"responses": ["a", ""]}, "responses: item 1 is empty: give what was shown"),
        (JOINT, {"responses": [None], "prompt": "p"}, "item 0 is empty"),
        ({**B, "encoder": "hashing"}, {"responses": np.ones((2, 6), np.float32), "prompt": ""}, "prompt: item 0 is"),
        ({}, {"responses": None}, "a list of texts, or embeddings"),
        (
            JOINT,
            {"responses": [np.ones(6, np.float32)], "prompt": "p"},
            "item 0 is ndarray: this model embeds",
        ),
        (JOINT, {"responses": ["a"], "prompt": np.ones(6, np.float32)}, "prompt: item 0 is ndarray"),
        (B, {"responses": np.zeros((2, 6), np.float32)}, "this model takes a prompt: pass prompt="),
        (
            B,
            {"responses": np.zeros((2, 6), np.float32), "prompt": np.zeros(4, np.float32)},
            r"embeddings of prompts must be \(2, 6\), found \(2, 4\)",
        ),
        (B, {"responses": np.zeros((2, 6), np.float32), "prompt": "text"}, "trained on own vectors: pass prompts"),
    ],
)
def test_reward_says_what_is_wrong(settings, arguments, says):
    with pytest.raises(pal.InputError, match=says) as error:
        model_of(**settings).reward("u1", **arguments)
    one_line(error)


def test_tensors_of_the_wrong_shape_are_refused():
    x, c = torch.zeros(4, D), torch.zeros(4, D)
    with pytest.raises(pal.InputError, match="embeddings of prompts must be None"):
        model_of().prototype_rewards(c, x)
    with pytest.raises(pal.InputError, match=r"embeddings of prompts must be \(B, 6\), found None"):
        model_of(**B).prototype_rewards(None, x)
    with pytest.raises(pal.InputError, match="embeddings of responses"):
        model_of(**B).margin(c, x, x[:, :3], torch.full((4, 3), 1 / 3))


def test_a_prompt_is_ignored_where_the_model_takes_none():
    x = np.ones((2, D), np.float32)
    assert np.array_equal(model_of().reward("u1", prompt="any", responses=x), model_of().reward("u1", responses=x))


def test_texts_are_embedded_by_the_models_encoder():
    encoder = HashingEncoder(32)
    responses = ["tea with milk", "black coffee", "green tea"]
    model = model_of(response_dim=32, prompt_dim=32, prompt="separate", model="b", encoder="hashing")
    model._encoders["hashing"] = encoder
    found = model.reward("u1", prompt="what to drink", responses=responses)
    vectors, prompt = encoder.encode(responses), encoder.encode(["what to drink"])[0]
    np.testing.assert_allclose(found, model.reward("u1", prompt=prompt, responses=vectors), rtol=1e-5)
    joint = model_of(response_dim=32, prompt="joint", encoder="hashing")
    joint._encoders["hashing"] = encoder
    found = joint.reward("u1", prompt="p", responses=responses)
    together = encoder.encode([f"p\n\n{text}" for text in responses])
    np.testing.assert_allclose(found, joint.reward("u1", prompt="p", responses=together), rtol=1e-5)


def test_an_encoder_of_another_revision_is_refused():
    model = model_of(response_dim=512, encoder="hashing", revision="an-older-one")
    with pytest.raises(pal.InputError, match=r"encoder 'hashing' is here in revision .*trained with an-older-one"):
        model.reward("u1", responses=["text"])


@pytest.mark.parametrize(
    ("settings", "data", "says"),
    [
        ({}, lambda: tiny(prompts=0, dim=4), "takes responses of dimension 6, found 4"),
        (
            B,
            lambda: tiny(prompts=0),
            "the model takes prompts, but the comparisons have no prompts: give them a column",
        ),
        (
            B,
            lambda: replace(tiny(), prompts=None, prompt_mode="none"),
            "the model takes prompts, but the comparisons have no embedded prompts",
        ),
        ({**B, "prompt_dim": 5}, tiny, "the model takes prompts of dimension 5, found 6"),
        ({"prompt": "joint"}, lambda: tiny(prompts=0), "trained with prompt='joint'"),
        (
            {"encoder": "all-MiniLM-L6-v2"},
            lambda: replace(tiny(prompts=0), encoder="hashing"),
            "trained on responses embedded by 'all-MiniLM-L6-v2', found 'hashing'",
        ),
        (
            {"encoder": "hashing", "revision": "1"},
            lambda: replace(tiny(prompts=0), encoder="hashing", revision="2"),
            "embedded by 'hashing' in revision 1, found revision 2",
        ),
    ],
)
def test_data_of_another_kind_are_refused(settings, data, says):
    with pytest.raises(pal.InputError, match=says) as error:
        model_of(**settings).predict(data())
    one_line(error)


def test_users_are_matched_by_id_whatever_their_rows():
    model = model_of(["u3", "u0"])
    data = tiny(60, users=5, prompts=0)
    table, rows = model.weights_of(data.comparisons.user_ids)
    assert rows.tolist() == [1, 2, 2, 0, 2]
    assert torch.equal(table.weights[:2], model.users.weights)
    assert torch.equal(table.weights[2], model.population)
    assert len(table) == 3
    shuffled = data.take(np.random.default_rng(0).permutation(60))
    compacted = replace(
        shuffled,
        comparisons=shuffled.comparisons.compact(),
        responses=shuffled.responses[np.unique(np.r_[shuffled.comparisons.left, shuffled.comparisons.right])],
    )
    np.testing.assert_allclose(model.predict(compacted), model.predict(shuffled), rtol=1e-5)


def test_people_come_and_go_without_touching_the_model_they_came_from():
    model = model_of(["u1", "u2"])
    more = replace(model.users, ids=pl.Series("user_id", ["u2", "u3"]))
    wider = model.with_users(more)
    assert sorted(wider.user_ids) == ["u1", "u2", "u3"]
    assert torch.equal(wider.users.weights[wider.users.row("u2")], more.weights[0])
    assert model.user_ids.to_list() == ["u1", "u2"]
    fewer = wider.without_users(["u1", "u3"])
    assert fewer.user_ids.to_list() == ["u2"]
    for unknown in ("u1", 3):
        with pytest.raises(pal.UnknownUserError, match=f"user {unknown!r} is not known: there is nothing to remove"):
            fewer.without_users(["u2", unknown])
    with pytest.raises(pal.InputError, match=r"users must be what pal\.adapt gives, found 'u4'"):
        model.with_users("u4")
    with pytest.raises(pal.InputError, match="weights are over 2 prototypes, the model has 3"):
        model.with_users(model_of(["u8"], n_prototypes=2).users)


def test_predictions_are_in_evaluation_mode():
    model = model_of(map="mlp", dropout=0.5)
    for parameter in model.prototypes.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape))
    data = tiny(40, prompts=0)
    model.train()
    one = model.predict(data)
    model.train()
    assert np.array_equal(one, model.predict(data))


def test_prototype_rewards_are_in_evaluation_mode():
    model = model_of(map="mlp", dropout=0.5)
    for parameter in model.prototypes.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape))
    x = torch.randn(3, D)
    model.train()
    rewards = model.prototype_rewards(None, x)
    model.train()
    assert torch.equal(rewards, model.prototype_rewards(None, x))


def test_no_comparisons_are_no_predictions():
    assert model_of().predict(tiny(prompts=0).take([])).shape == (0,)
