"""Pick-a-Filter: the builder's properties on any table, what is simulated, and figures 3, 6, 14 and table 3."""

import io
import json
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, embed
from pal.errors import EncoderError, InputError
from pal.paper import (
    _photographs,
    _pick_a_filter_runs,
    _pick_a_filter_source,
    _runner,
    figure_3,
    figure_6,
    figure_14,
    table_3,
)
from pal.paper._pick_a_filter import COLOURS, SPLITS, build, painted, read
from pal.training import TrainConfig


def answers(counts, parts=SPLITS, seed=0):
    """Users u0, u1, ... with these many answers, in turn in each of the parts."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(counts)), counts)
    left = random.integers(30, size=len(user))
    return Comparisons.from_columns(
        user_id=[f"u{row}" for row in user],
        left_id=[f"i{row}" for row in left],
        right_id=[f"i{row}" for row in (left + random.integers(1, 30, size=len(user))) % 30],
        label=random.integers(2, size=len(user)).astype(float),
        split=[parts[row % len(parts)] for row in range(len(user))],
    )


def users_of(built, rows):
    return set(built.comparisons.user_ids.gather(built.comparisons.user[rows]).to_list())


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(51, 90), min_size=4, max_size=9),
    beta=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_shares_hold_for_each_user_and_part(counts, beta, seed):
    built = build(answers(counts, seed=seed), beta, seed, seen=2)
    table = built.comparisons
    for user in range(len(table.user_ids)):
        for split in SPLITS:
            rows = (table.user == user) & (built.split == split)
            filtered = rows & built.filtered
            assert abs(filtered.sum() - beta * rows.sum()) < 1
            assert abs((filtered & built.winner).sum() - filtered.sum() / 2) <= 0.5
    assert not ((built.left != "") & (built.right != "")).any()


@settings(max_examples=20)
@given(counts=st.lists(st.integers(51, 70), min_size=4, max_size=9), seed=st.integers(0, 1000))
def test_groups_are_equal_disjoint_and_in_order(counts, seed):
    built = build(answers(counts), 1.0, seed, seen=3)
    cold, warm = (users_of(built, built.group == group) for group in (0, 1))
    assert len(cold) == len(warm) == len(counts) // 2
    assert not cold & warm
    seen = users_of(built, built.seen)
    size = {f"u{row}": count for row, count in enumerate(counts)}
    assert len(seen) == 3
    assert min(size[user] for user in seen) >= max(size[user] for user in (cold | warm) - seen)
    winner = np.where(built.group == 0, "cold", "warm")
    loser = np.where(built.group == 0, "warm", "cold")
    colour = np.where(built.left != "", built.left, built.right)
    assert (colour == np.where(built.winner, winner, loser)).all()


@settings(max_examples=20)
@given(low=st.floats(0, 1), high=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_higher_ratio_filters_what_a_lower_one_does(low, high, seed):
    low, high = sorted((low, high))
    few, many = (build(answers([60] * 4), beta, seed, seen=2) for beta in (low, high))
    assert (many.left[few.left != ""] == few.left[few.left != ""]).all()
    assert (many.filtered | ~few.filtered).all()


def test_seeds_reproduce():
    table = answers([60] * 4)
    one, same, other = (build(table, 0.5, seed, seen=2) for seed in (1, 1, 2))
    assert (one.left == same.left).all()
    assert (one.right == same.right).all()
    assert (one.left != other.left).any()


def test_ties_and_users_with_too_few_answers_or_none_in_test_are_left_out():
    frame = pl.concat(
        [
            answers([80, 70, 60, 55, 51, 50]).to_frame(),
            answers([90], parts=("train",)).to_frame().with_columns(user_id=pl.lit("train alone")),
            answers([60]).to_frame().with_columns(user_id=pl.lit("tied"), label=pl.lit(0.5, pl.Float32)),
        ]
    )
    with pytest.warns(UserWarning, match="ties"):
        built = build(Comparisons.from_frame(frame), 0.5, seen=2)
    assert users_of(built, slice(None)) == {"u0", "u1", "u2", "u3"}  # u4 is one too many, u5 has no more than 50
    assert users_of(built, built.seen) == {"u0", "u1"}
    assert built.steps["users in train and test"] == 6
    assert built.steps["answers without ties"] == built.steps["answers"] - 60
    assert built.steps["answers kept"] == 80 + 70 + 60 + 55
    counts = built.counts()
    assert counts["n"].sum() == built.steps["answers kept"]
    assert counts["users"].to_list() == [1] * 12


@pytest.mark.parametrize(
    ("table", "beta", "error"),
    [
        (answers([60] * 4), 1.5, "beta must be"),
        (answers([60] * 4), float("nan"), "beta must be"),
        (answers([60] * 2), 0.5, "2 users in two equal groups"),
        (answers([60] * 4, parts=("train",)), 0.5, "0 users in two equal groups"),
        (Comparisons.from_columns(user_id=["a"], left_id=["b"], right_id=["c"], label=[1]), 0.5, "column 'split'"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(table, beta, error):
    with pytest.raises(InputError, match=error) as raised:
        build(table, beta, seen=2)
    assert "\n" not in str(raised.value)


def picture(colour=(90, 120, 60), size=(12, 8)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def coldness(content):
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)
    return (pixels[..., 2] - pixels[..., 0]).mean()


@given(colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_filters_make_pictures_colder_and_warmer(colour):
    out = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(out, "PNG")
    content = out.getvalue()
    cold, warm = (painted(content, name) for name in COLOURS)
    assert coldness(warm) <= coldness(content) <= coldness(cold)
    assert coldness(cold) - coldness(warm) > 100
    assert Image.open(io.BytesIO(cold)).size == (6, 4)


@pytest.fixture
def folder(tmp_path):
    """Pictures, and a table of pairs of them beside them."""
    for number in range(30):
        (tmp_path / f"i{number}.jpg").write_bytes(picture((8 * number, 100, 60)))
    frame = answers([60] * 4).to_frame()
    paths = {name: pl.concat_str(pl.col(f"{name}_id"), pl.lit(".jpg")) for name in ("left", "right")}
    frame.with_columns(**paths).drop("left_id", "right_id").write_csv(tmp_path / "pairs.csv")
    return tmp_path


def test_a_folder_becomes_a_data_set_whose_untouched_pictures_are_the_same_bytes(folder):
    table = read(folder)
    built = build(table, 0.5, seen=2)
    frame = built.frame()
    originals = {path.name: path.read_bytes() for path in folder.glob("*.jpg")}
    for row in range(len(frame)):
        for side, colours in (("left", built.left), ("right", built.right)):
            place = getattr(built.comparisons, side)[row]
            original = originals[str(built.comparisons.responses.ids[int(place)])]
            same = frame[side][row] == original
            assert same == (colours[row] == "")
            if not same:
                sign = 1 if colours[row] == "cold" else -1
                assert sign * (coldness(frame[side][row]) - coldness(original)) > 0
    again = Comparisons.from_frame(frame)
    assert again.responses.kind == "image"
    assert len(again) == len(built.comparisons)
    assert read(folder / "pairs.csv").to_frame().equals(table.to_frame())


def test_bad_folders_are_refused_in_one_line(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match=r"one table .* found none"):
        read(empty)
    (folder / "i3.jpg").unlink()
    with pytest.raises(EncoderError, match=r"i3\.jpg"):
        build(read(folder), 0.0, seen=2).frame()
    (folder / "i3.jpg").write_text("no picture")
    with pytest.raises(EncoderError, match="cannot be read"):
        build(read(folder), 1.0, seen=2).frame()
    (folder / "more.jsonl").write_text("")
    with pytest.raises(InputError, match=r"found more\.jsonl, pairs\.csv"):
        read(folder)
    with pytest.raises(InputError, match="ids or texts"):
        build(answers([60] * 4), 0.5, seen=2).frame()


# -- what is simulated ---------------------------------------------------------------------------------------------


def test_simulated_users_are_those_of_appendix_d():
    assert (_pick_a_filter_source.counts(234) > 50).sum() == 234
    (row,) = ({**cell, **result} for cell, result in table_3.run(table_3.cells("paper", 1)))
    assert row["steps"]["users in train and test"] == 468
    assert row["steps"]["users in each group"] == 117
    assert row["steps"]["users seen"] == 50
    assert all(check.ok for check in table_3.checks([row]))
    lines = table_3.table([row])
    assert [line["train (paper)"] for line in lines] == [58831, 9527, 68358, 57200, 9402, 66602]
    broken = {**row, "counts": [{**count, "winner": 0} for count in row["counts"]]}
    assert not all(check.ok for check in table_3.checks([broken]))


def test_simulated_answers_mostly_follow_the_shared_reward_and_parts_share_no_crop():
    family = np.repeat(np.arange(3), 40)
    random = np.random.default_rng(0)
    reward = _pick_a_filter_source.shared_reward(random.normal(size=(120, 24)), family, 0)
    table = _pick_a_filter_source.simulated(("a", "b", "c"), family, reward, 24, 0)
    worth = np.array([reward[int(name)] for name in table.responses.ids])
    decided = table.label != 0.5
    agree = (worth[table.left] > worth[table.right]) == (table.label == 1)
    assert abs(agree[decided].mean() - _pick_a_filter_source.AGREEMENT) < 0.03
    kind = np.array([family[int(name)] for name in table.responses.ids])
    assert (kind[table.left] == kind[table.right]).all()
    used = [set(table.left[table.assigned == split]) | set(table.right[table.assigned == split]) for split in SPLITS]
    assert all(not one & other for place, one in enumerate(used) for other in used[:place])
    with pytest.raises(InputError, match="too few"):
        _pick_a_filter_source.simulated(("a",), np.zeros(5, int), np.zeros(5), 24, 0)


class MeanColour:
    """Three numbers a picture."""

    name, revision, dim, kind = "mean-colour", "1", 3, "image"

    def encode(self, contents, batch_size=64):
        return np.array([np.asarray(Image.open(io.BytesIO(one))).mean((0, 1)) / 255 for one in contents], np.float32)


def test_crops_are_cut_of_pictures_that_are_not_flat(tmp_path, monkeypatch):
    monkeypatch.setattr(_photographs, "resolve_encoder", lambda _: MeanColour())
    monkeypatch.setenv("PAL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="make photographs"):
        _photographs.pictures("photographs", 40, tmp_path / "none")
    (tmp_path / "photographs" / "abstract").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "photographs" / "LadyBird2.png")
    Image.fromarray(noise).save(tmp_path / "photographs" / "abstract" / "Logo.png")
    (tmp_path / "photographs" / "flat.jpg").write_bytes(picture(size=(90, 90)))
    found = _photographs.pictures("photographs", 40, tmp_path / "store")
    assert found.captions == ("lady bird 2",)
    assert found.family.tolist() == [0] * 20  # half of 40: the flat picture gives none
    red, blue = (found.vectors["warm"][:, channel] - found.vectors["cold"][:, channel] for channel in (0, 2))
    assert (red > 0.2).all()
    assert (blue < -0.2).all()
    ids, vectors = found.table()
    assert len(ids) == len(set(ids)) == len(vectors) == 60
    made = _photographs.pictures("generated", 20, tmp_path / "store")
    assert len(made) == 20
    assert made.source == "generated"


# -- the experiments -----------------------------------------------------------------------------------------------


def test_the_cosine_needs_one_space():
    table = Comparisons.from_columns(
        user_id=["a", "a"], left_id=["x", "y"], right_id=["y", "x"], label=[1, 1], prompt=["p"] * 2
    )
    pictures = np.array([[2, 0], [0, 3]], np.float32)
    data = EmbeddedComparisons(table, pictures, np.array([[5, 1]], np.float32))
    assert (_pick_a_filter_runs.cosine(data) > 0.5).tolist() == [True, False]
    other = EmbeddedComparisons(table, pictures, np.ones((1, 3), np.float32))
    with pytest.raises(InputError, match="joint space"):
        _pick_a_filter_runs.cosine(other)
    bare = EmbeddedComparisons(table.with_prompt_ignored(), pictures, None)
    with pytest.raises(InputError, match="vectors of prompts"):
        _pick_a_filter_runs.cosine(bare)


def test_an_encoder_with_a_text_side_is_its_own_baseline():
    built = build(answers([60] * 4), 0.0, seen=2)
    table = _pick_a_filter_runs.by_id(built)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(table.responses), 8)).astype(np.float32)
    data = embed(table, embeddings=(table.responses.ids, vectors))
    probe = _pick_a_filter_runs.encoder_baseline(built, data, 0)
    assert probe(data).shape == (len(data),)
    joint = EmbeddedComparisons(table, vectors, None, encoder="clip", prompt_encoder="clip")
    assert _pick_a_filter_runs.encoder_baseline(built, joint, 0) is _pick_a_filter_runs.cosine


FEW = {"users": 8, "seen": 4, "prompts": "hashing-16"}


@pytest.fixture
def fake_pictures(monkeypatch):
    """Crops whose embeddings show their colour, as real ones do."""
    random = np.random.default_rng(0)
    family = np.repeat(np.arange(3), 40)
    plain = random.normal(size=(120, 12)).astype(np.float32)
    shift = np.zeros(12, np.float32)
    shift[0] = 4
    vectors = {"": plain, "cold": plain + shift, "warm": plain - shift}
    found = _photographs.Pictures("generated", ("a", "b", "c"), family, vectors)
    monkeypatch.setattr(_photographs, "pictures", lambda *_: found)
    monkeypatch.setattr(_pick_a_filter_runs, "missing", lambda scale="small": None)
    monkeypatch.setitem(_pick_a_filter_runs.SETTINGS, "small", {**_pick_a_filter_runs.SETTINGS["small"], **FEW})
    monkeypatch.setattr(_pick_a_filter_runs, "TrainConfig", partial(TrainConfig, max_steps=100))
    _pick_a_filter_runs._unfiltered.cache_clear()
    yield found
    _pick_a_filter_runs._unfiltered.cache_clear()


@pytest.mark.usefixtures("fake_pictures")
def test_the_figures_share_their_cells_and_their_checks_hold(tmp_path, monkeypatch):
    six = _runner.reproduce(["figure-6"], out=tmp_path)
    monkeypatch.setattr(_pick_a_filter_runs, "measure", lambda *_: pytest.fail("trained again"))
    fourteen = _runner.reproduce(["figure-14"], out=tmp_path)
    assert six[0]["rows"] == fourteen[0]["rows"]
    for record in (*six, *fourteen):
        assert [check for check in record["checks"] if not check["ok"]] == []
        assert (tmp_path / record["figures"][0]).read_bytes().startswith(b"\x89PNG")
        assert all("stand-in" in line["data"] for line in record["table"])
    assert six[0]["table"][-1]["K = 2 (paper)"] == "95.2"
    for row in six[0]["rows"]:
        parts = (row["k2_filtered"], row["k2_untouched"])
        share = row["n_filtered"] / row["n_test"]
        assert row["k2"] == pytest.approx(
            sum(p * s for p, s in zip(parts, (share, 1 - share), strict=True) if p is not None)
        )
        assert row["best_filtered"] == 1
    same = [{**row, "k2": row["k1"], "k2_filtered": row["k1_filtered"]} for row in six[0]["rows"]]
    assert not all(check.ok for check in figure_6.EXPERIMENT.checks(same))
    assert not all(check.ok for check in figure_14.EXPERIMENT.checks(same))


def test_without_photographs_the_papers_scale_is_skipped_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PAL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "make photographs" in _pick_a_filter_runs.missing("paper")
    assert _pick_a_filter_runs.missing("small") is None
    assert figure_6.EXPERIMENT.cells("paper", 5) == []
    for figure in (figure_6, figure_14):
        assert "make photographs" in figure.EXPERIMENT.table([])[0]["verdict"]
        assert figure.EXPERIMENT.figures([], tmp_path) == []
        assert figure.EXPERIMENT.checks([]) == []


def test_figure_3_draws_the_steps(tmp_path):
    rows = [{**cell, **result} for cell, result in figure_3.run(figure_3.cells("small", 1))]
    json.dumps(rows)
    assert figure_3.EXPERIMENT.figures(rows, tmp_path)[0].read_bytes().startswith(b"\x89PNG")
    assert all(check.ok for check in figure_3.EXPERIMENT.checks(rows))
    assert figure_3.EXPERIMENT.table(rows)[2]["paper"] == "234"
    for group in rows[0]["groups"]:
        assert group["answers"] == group["untouched"] + group["winner"] + group["loser"]
