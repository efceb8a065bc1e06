"""HashingEncoder: vectors of texts by hashing their words and letters; no download, the same everywhere."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pal._checks import whole
from pal.errors import EncoderError

_U64 = npt.NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15  # odd, so that its powers can be inverted modulo 2^64
_BASE_INVERSE = pow(_BASE, -1, 2**64)
_SPACE = np.uint32(32)
_BLOCK = 1 << 19  # characters hashed at once: bounds the memory, and stays near the processor's cache
_BLOCK_ROWS = 4096
_NGRAMS = (3, 4, 5)
_WORD, _BIGRAM, _LETTERS = 1.0, 0.5, 0.5


class HashingEncoder:
    """Signed feature hashing of words, word bigrams and the letters inside words (3 to 5 at a time).

    Purely lexical: two texts are near when they share words or stems of words. It knows no synonyms, no
    grammar beyond neighbouring words, and no world: "cheap flat" and "affordable apartment" are as far apart
    as strangers. It is the offline default of demos and quick tests, and a fair floor to compare encoders
    with. For results to rely on, take a sentence encoder such as "all-MiniLM-L6-v2". Texts are lower-cased.

    The hash is arithmetic on code points, so vectors agree between processes, machines and versions of numpy.
    Every row has length 1. Texts without a letter or digit ("", "?!") each get one coordinate of their own.

    Its name is "hashing", or "hashing-64" and the like for another `dim`.

    Args:
        dim: length of the vectors, at least 8. In short vectors, unrelated features meet in one coordinate.
    """

    kind = "text"
    revision = "1"

    def __init__(self, dim: int = 512) -> None:
        whole("dim", dim, least=8)
        self.dim = dim
        self.name = "hashing" if dim == 512 else f"hashing-{dim}"

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> npt.NDArray[np.float32]:  # noqa: ARG002 - the protocol has it
        """Vectors of texts, shape (n, dim), each of length 1.

        Args:
            contents: n strings.
            batch_size: ignored; there to be an `Encoder`.

        Raises:
            EncoderError: an item is not a string.
        """
        texts: list[str] = []
        for row, text in enumerate(contents):
            if not isinstance(text, str):
                raise EncoderError(f"the hashing encoder takes texts, item {row} is {type(text).__name__}")
            texts.append(text)
        out = np.empty((len(texts), self.dim), np.float32)
        start, size = 0, 0
        for row, text in enumerate(texts):
            size += len(text) + 2
            if size >= _BLOCK or row + 1 - start == _BLOCK_ROWS or row == len(texts) - 1:
                out[start : row + 1] = self._encode_block(texts[start : row + 1])
                start, size = row + 1, 0
        return out

    def _encode_block(self, texts: list[str]) -> npt.NDArray[np.float32]:
        rows, hashes, values = _features(texts)
        bucket = ((hashes >> np.uint64(33)) % np.uint64(self.dim)).astype(np.int64)
        signed = np.where(hashes & np.uint64(1), values, -values)
        flat = np.bincount(rows * self.dim + bucket, weights=signed, minlength=len(texts) * self.dim)
        dense = flat.reshape(len(texts), self.dim)
        norm = np.sqrt(np.einsum("nd,nd->n", dense, dense))
        for row in np.flatnonzero(norm < 1e-9):  # no word at all, or features that cancelled
            digest = hashlib.blake2b(texts[row].encode("utf-8", "surrogatepass"), digest_size=8).digest()
            dense[row, int.from_bytes(digest, "little") % self.dim] = norm[row] = 1.0
        return np.asarray(dense / norm[:, None], np.float32)


def _mix(x: _U64) -> _U64:
    """The finishing steps of splitmix64: every input bit changes half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _powers(base: int, n: int) -> _U64:
    powers = np.full(n, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _is_word(code: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Whether a code point belongs to a word, by fixed ranges rather than by the Unicode version at hand."""
    ascii_table = np.array([chr(c).isalnum() for c in range(128)])
    word = np.ones(len(code), np.bool_)
    low = code < 128
    word[low] = ascii_table[code[low]]
    # Latin-1 signs; general punctuation; CJK punctuation; full-width punctuation
    for first, last in ((0x80, 0xBF), (0x2000, 0x206F), (0x3000, 0x303F), (0xFF00, 0xFF0F)):
        word &= ~((code >= first) & (code <= last))
    return word


def _features(texts: list[str]) -> tuple[npt.NDArray[np.int64], _U64, npt.NDArray[np.float64]]:
    """All features of all texts.

    Returns:
        rows (F,): the text each belongs to; hashes (F,); values (F,): how much each counts.
    """
    # every text between two line ends, so that no feature reaches over into its neighbour
    joined = "\n" + "\n\n".join(text.lower().replace("\n", " ") for text in texts) + "\n"
    code = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    line_end = code == ord("\n")
    row = (np.cumsum(line_end) - 1) >> 1  # two line ends a text
    word = _is_word(code)
    keep = line_end | word | np.concatenate([[True], word[:-1]])  # a run of other signs becomes one space
    code, row, word = np.where(word, code, _SPACE)[keep], row[keep], word[keep]

    # polynomial hash of every stretch [i, j) from prefix sums: (prefix[j] - prefix[i]) / base^i, modulo 2^64
    powers, inverse = _powers(_BASE, len(code)), _powers(_BASE_INVERSE, len(code))
    prefix = np.zeros(len(code) + 1, np.uint64)
    np.cumsum(_mix(code.astype(np.uint64) + np.uint64(1)) * powers, out=prefix[1:])
    gaps = np.zeros(len(code) + 1, np.int64)
    np.cumsum(~word, out=gaps[1:])

    edge = np.diff(np.concatenate([[False], word, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    words = _mix((prefix[ends] - prefix[starts]) * inverse[starts] + np.uint64(1))
    follows = row[starts[1:]] == row[starts[:-1]]
    bigrams = _mix(words[:-1] * np.uint64(3) + words[1:] + np.uint64(2))[follows]
    rows, hashes = [row[starts], row[starts[:-1]][follows]], [words, bigrams]
    values = [np.full(len(words), _WORD), np.full(len(bigrams), _BIGRAM)]
    for n in _NGRAMS:
        first = np.arange(max(len(code) - n + 1, 0))
        first = first[gaps[first + n - 1] == gaps[first + 1]]  # spaces at the ends only: inside one word
        hashes.append(_mix((prefix[first + n] - prefix[first]) * inverse[first] + np.uint64(2 + n)))
        rows.append(row[first])
        values.append(np.full(len(first), _LETTERS))
    return np.concatenate(rows).astype(np.int64), np.concatenate(hashes), np.concatenate(values)
