import sys

import numpy as np
import polars as pl
import pytest

from counting import Counting, comparisons_of, one_line, vectors_of
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, EmbeddingStore, embed
from pal.errors import EncoderError, InputError

# --- embed with an encoder ---


def test_rows_of_vectors_follow_the_items():
    comparisons = comparisons_of(["aa", "b", "cccc"], prompt=["p", "qq", "p"])
    data = embed(comparisons, Counting())
    np.testing.assert_array_equal(data.responses, vectors_of(comparisons.responses.ids))
    np.testing.assert_array_equal(data.prompts, vectors_of(comparisons.prompts.ids))
    assert data.responses.dtype == np.float32
    assert (data.encoder, data.revision, data.prompt_encoder) == ("counting", "1", "counting")
    assert len(data) == 3
    assert "responses (3, 4)" in repr(data)


def test_a_text_that_is_prompt_and_response_is_embedded_once():
    encoder = Counting()
    embed(comparisons_of(["same", "b"], prompt=["same", "same"]), encoder)
    assert sorted(encoder.seen) == ["b", "same"]


def test_prompt_modes():
    comparisons = comparisons_of(["aa", "b"], prompt=["p", "q"])
    joint = embed(comparisons, Counting(), prompt_mode="joint")
    assert joint.prompts is None
    assert set(joint.comparisons.responses.ids) == {"p\n\naa", "p\n\nb", "q\n\nb", "q\n\naa"}
    np.testing.assert_array_equal(joint.responses, vectors_of(joint.comparisons.responses.ids))
    assert joint.comparisons.prompts is not None  # for splits
    without = embed(comparisons, encoder := Counting(), prompt_mode="none")
    assert without.prompts is None
    assert sorted(encoder.seen) == ["aa", "b"]
    with pytest.raises(InputError, match="prompt_mode='both' is not known: use 'separate', 'joint' or 'none'"):
        embed(comparisons, Counting(), prompt_mode="both")


def test_prompts_may_have_their_own_encoder(tmp_path):
    comparisons = comparisons_of(["aa", "b"], prompt=["p", "q"])
    for _ in range(2):
        data = embed(comparisons, Counting(), prompt_encoder=Counting("other", dim=6), store=tmp_path / "s")
        assert data.responses.shape == (2, 4)
        assert data.prompts.shape == (2, 6)
    assert data.prompt_encoder == "other"
    assert len(EmbeddingStore(tmp_path / "s" / "prompts")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype='float64' is not known: use 'float32' or 'float16'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, found 0"),
        (
            {"encoder": Counting(kind="image")},
            "is for images, but the responses are texts: name one for texts",
        ),
        ({"encoder": 3}, "encoder must be a name, a folder, or an object with name"),
        ({"encoder": Counting}, "encoder must be a name, a folder, or an object with name"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message) as error:
        embed(comparisons_of(["a", "b"]), **{"encoder": Counting(), **change})
    assert one_line(error)


def test_ids_without_texts_need_vectors():
    comparisons = Comparisons.from_columns(user_id=["u"], left_id=["a"], right_id=["b"], label=[1])
    with pytest.raises(InputError, match=r"these responses are ids without texts: pass embeddings=\(ids, matrix\)"):
        embed(comparisons, "hashing")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_out_of_an_encoder_names_the_item(bad):
    class Broken(Counting):
        def encode(self, contents, batch_size=64):
            out = super().encode(contents)
            out[[text == "boom" for text in contents]] = bad
            return out

    with pytest.raises(EncoderError, match="encoder 'counting' gave NaN or infinity for 'boom'") as error:
        embed(comparisons_of(["a", "boom", "c"]), Broken())
    assert one_line(error)


def test_an_encoder_that_fails_or_gives_another_shape():
    class Fails(Counting):
        def encode(self, contents, batch_size=64):
            raise RuntimeError("out of memory\nby a lot")

    class Short(Counting):
        def encode(self, contents, batch_size=64):
            return super().encode(contents)[:1]

    with pytest.raises(EncoderError, match=r"encoder 'counting' failed: out of memory$"):
        embed(comparisons_of(["a", "b"]), Fails())
    with pytest.raises(EncoderError, match=r"gave an array \(1, 4\) for 2 items, expected \(2, 4\)"):
        embed(comparisons_of(["a", "b"]), Short())


def test_float16(tmp_path):
    comparisons = comparisons_of(["aa", "b"])
    for store in (None, tmp_path / "s", tmp_path / "s"):
        data = embed(comparisons, Counting(), dtype="float16", store=store)
        assert data.responses.dtype == np.float16
        np.testing.assert_array_equal(data.responses, vectors_of(["aa", "b"]).astype(np.float16))
    for store in (None, tmp_path / "big"):
        with pytest.raises(EncoderError, match="beyond float16: use dtype='float32'"):
            embed(comparisons, Counting(scale=1e6), dtype="float16", store=store)


def test_take_and_split_keep_the_vectors():
    comparisons = comparisons_of([f"text {i}" for i in range(60)], prompt=["p", "q"] * 30)
    data = embed(comparisons, "hashing")
    some = data.take(np.arange(5))
    assert len(some) == 5
    assert some.responses is data.responses
    mask = np.zeros(60, bool)
    mask[3] = True
    assert len(data.take(mask)) == 1
    parts, plain = data.split(unseen_users=0, seed=3), comparisons.split(unseen_users=0, seed=3)
    for name in ("train", "validation", "test", "unseen"):
        part = getattr(parts, name)
        assert isinstance(part, EmbeddedComparisons)
        np.testing.assert_array_equal(part.comparisons.left, getattr(plain, name).left)
    assert str(parts.leakage())


def test_vectors_and_tables_must_agree():
    comparisons = comparisons_of(["a", "b"], prompt=["p", "q"])
    good = np.zeros((2, 3), np.float32)
    EmbeddedComparisons(comparisons, good, good, None)
    for responses, prompts, mode, message in [
        (good[:1], good, "separate", r"vectors of responses must be \(2, D\)"),
        (good, good[:1], "separate", r"vectors of prompts must be \(2, D\)"),
        (good.astype(np.float64), good, "separate", "float32 or float16, found float64"),
        ([[1.0]], good, "separate", "must be a numpy array"),
        (good, good, "none", "prompt_mode='none' uses none"),
        (good, None, "separate", "say prompt_mode='none'"),
        (good, None, "?", "prompt_mode='\\?' is not known"),
    ]:
        with pytest.raises(InputError, match=message):
            EmbeddedComparisons(comparisons, responses, prompts, None, mode)


# --- own vectors ---

OWN = Comparisons.from_columns(user_id=["u", "u"], left_id=["a", "b"], right_id=["b", "c"], label=[1, 0])
MATRIX = np.arange(12, dtype=np.float64).reshape(4, 3)
IDS = ["c", "a", "zz", "b"]


def own_forms(tmp_path):
    frame = pl.DataFrame({"id": IDS, "embedding": MATRIX.tolist()})
    frame.write_parquet(tmp_path / "v.parquet")
    return [
        (IDS, MATRIX),
        (np.array(IDS), MATRIX.astype(np.float16)),
        (pl.Series(IDS), MATRIX.astype(np.int64)),
        (IDS, MATRIX.tolist()),
        frame,
        frame.with_columns(pl.col("embedding").list.to_array(3)),
        tmp_path / "v.parquet",
        str(tmp_path / "v.parquet"),
    ]


def test_own_vectors_are_matched_by_id(tmp_path):
    import torch

    for given_form in [
        *own_forms(tmp_path),
        (IDS, torch.tensor(MATRIX)),
        (IDS, torch.tensor(MATRIX).bfloat16()),
    ]:
        data = embed(OWN, embeddings=given_form)
        np.testing.assert_array_equal(data.responses, MATRIX[[1, 3, 0]].astype(np.float32))
        assert data.responses.dtype == np.float32
        assert data.encoder is None
    assert embed(OWN, embeddings=(IDS, MATRIX), dtype="float16").responses.dtype == np.float16


def test_integer_ids_and_texts_as_ids():
    numbered = Comparisons.from_columns(user_id=["u"], left_id=[10], right_id=[7], label=[1])
    data = embed(numbered, embeddings=([7, 10], [[1.0], [2.0]]))
    assert data.responses.tolist() == [[2.0], [1.0]]
    texts = embed(comparisons_of(["some text", "other"]), embeddings=(["other", "some text"], [[1.0], [2.0]]))
    assert texts.responses.tolist() == [[2.0], [1.0]]


def test_own_vectors_of_prompts():
    asked = Comparisons.from_columns(user_id=["u"], left_id=["a"], right_id=["b"], prompt_id=["p"], label=[1])
    both = embed(asked, embeddings=(["a", "b", "p"], MATRIX[:3]))
    assert both.prompts.tolist() == [[6, 7, 8]]
    apart = embed(asked, embeddings=(["a", "b"], MATRIX[:2]), prompt_embeddings=(["p"], [[5.0]]))
    assert apart.prompts.tolist() == [[5.0]]
    assert embed(asked, embeddings=(["a", "b"], MATRIX[:2]), prompt_mode="none").prompts is None
    with pytest.raises(InputError, match="1 of 1 prompts have no embedding in embeddings: 'p'; add rows"):
        embed(asked, embeddings=(["a", "b"], MATRIX[:2]))
    with pytest.raises(InputError, match=r"these prompts are ids without texts: pass prompt_embeddings="):
        embed(asked, embeddings=(["a", "b"], MATRIX[:2]), prompt_encoder="hashing")


def with_value(value, row=1, column=2):
    matrix = MATRIX.copy()
    matrix[row, column] = value
    return matrix


BAD_VECTORS = [
    (
        (IDS, with_value(np.nan)),
        "embeddings, row 2, id 'a': number 3 of its embedding is nan; embed it again, or drop it",
    ),
    ((IDS, with_value(-np.inf, row=2)), "row 3, id 'zz': number 3 of its embedding is -inf"),
    (
        (IDS[:2], MATRIX[:2]),
        "1 of 3 responses have no embedding in embeddings: 'b'; add rows with these ids to its 2",
    ),
    ((["x", "y"], MATRIX[:2]), "3 of 3 responses have no embedding in embeddings: 'a', 'b', 'c'; add rows"),
    ((["a", "b", "c", "b"], MATRIX), "id 'b' is in rows 2 and 4: keep one row for each id"),
    ((["a", "a", "a", "b"], MATRIX), r"id 'a' is in rows 1 and 2 \(2 rows repeat an id\)"),
    (([], np.zeros((0, 3))), "embeddings is empty"),
    ((IDS, MATRIX[:3]), "4 ids but 3 rows in the matrix"),
    ((IDS, MATRIX[0]), r"the matrix must be numbers of shape \(n, D\), found float64 \(3,\)"),
    ((IDS, np.array([["x"]] * 4)), "the matrix must be numbers"),
    ((IDS, [[1.0], [1.0, 2.0], [1.0], [1.0]]), "rows of the matrix differ in length"),
    ((["a", "b", None, "c"], MATRIX), "row 3: the id is null"),
    (([1.5, 2.5, 3.5, 4.5], MATRIX), "ids must be strings or integers, found Float64"),
    ((["a", 1, "b", "c"], MATRIX), "ids must be strings or integers, all of one kind"),
    ((IDS, with_value(1e300)), "id 'a' has a number beyond float32: scale the vectors"),
    ({"a": [1.0]}, "embeddings must be .* found dict"),
    (pl.DataFrame({"id": IDS}), r"embeddings table has no column 'embedding' \(found: id\)"),
    (
        pl.DataFrame({"id": IDS, "embedding": ["x"] * 4}),
        "column 'embedding' holds String, not lists of float",
    ),
    (
        pl.DataFrame({"id": IDS, "embedding": [[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]]}),
        "row 2: id 'a' has 1 numbers, others have 2",
    ),
    (pl.DataFrame({"id": IDS, "embedding": [[1.0], None, [1.0], [1.0]]}), "row 2: id 'a' has a null"),
    (pl.DataFrame({"id": IDS, "embedding": [[1.0], [None], [1.0], [1.0]]}), "row 2: id 'a' has a null"),
    (pl.DataFrame(schema={"id": pl.String, "embedding": pl.List(pl.Float32)}), "embeddings table is empty"),
    (
        pl.DataFrame({"id": ["a"], "embedding": [[]]}, schema_overrides={"embedding": pl.List(pl.Float64)}),
        "empty lists",
    ),
]


@pytest.mark.parametrize(("given_form", "message"), BAD_VECTORS)
def test_bad_own_vectors(given_form, message):
    with pytest.raises(InputError, match=message) as error:
        embed(OWN, embeddings=given_form)
    assert one_line(error)


def test_bad_files_of_own_vectors(tmp_path):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    for path, message in [
        (tmp_path / "none.parquet", "there is no such file"),
        (tmp_path / "torn.parquet", "is no parquet file, or is damaged"),
        (tmp_path, "is a folder: give a parquet file; an embedding store goes to store="),
    ]:
        with pytest.raises(InputError, match=message) as error:
            embed(OWN, embeddings=path)
        assert one_line(error)


def test_progress_is_for_terminals(monkeypatch, capfd, tmp_path):
    comparisons = comparisons_of([f"t{i}" for i in range(9)])
    embed(comparisons, Counting(), progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for store in (None, tmp_path / "s"):
        embed(comparisons, Counting(), progress=True, store=store)
        shown = capfd.readouterr()
        assert shown.out == ""
        assert "Embedding responses" in shown.err
        assert "9/9" in shown.err
