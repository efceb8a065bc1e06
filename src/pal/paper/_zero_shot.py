"""Zero-shot rewards: how near each response is to the prompt in a joint space, as CLIP and PickScore have one.

Two accuracies are in use. Ours, as everywhere in PAL, leaves ties out. Pick-a-Pic's own (Kirstain et al., 2023, and
their `eval_preference_predictor.py`) predicts a tie where the two probabilities are within a threshold that is chosen
on the validation set, and gives half a point where exactly one of prediction and label is a tie.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pal.errors import InputError

__all__ = ["SCALE", "best_threshold", "cosine_margin", "probability_of", "tie_accuracy", "zero_shot_accuracy"]

SCALE = 100.0  # exp(logit_scale) of CLIP-H14 and of PickScore: the ceiling CLIP models are trained to
THRESHOLDS = tuple(step / 10 for step in range(11))  # that Kirstain et al. choose from

Array = npt.NDArray[Any]
_PIECE = 65_536  # rows looked at together


def cosine_margin(prompts: Array, left: Array, right: Array) -> npt.NDArray[np.float64]:
    """cos(prompt, left) - cos(prompt, right), shape (n,), from -2 to 2.

    Args:
        prompts: embeddings of prompts, shape (n, D).
        left: of left responses, shape (n, D), in the same space.
        right: of right responses, shape (n, D).

    Raises:
        InputError: shapes that do not fit, or a vector of length zero, which has no direction.
    """
    if prompts.ndim != 2 or not prompts.shape == left.shape == right.shape:
        shapes = ", ".join(str(part.shape) for part in (prompts, left, right))
        raise InputError(f"prompts, left and right must have one shape (n, D), that of a joint space; found {shapes}")
    margin = np.empty(len(prompts))
    for start in range(0, len(prompts), _PIECE):
        piece = slice(start, start + _PIECE)
        at = _unit(prompts[piece], "prompt", start)
        difference = _unit(left[piece], "left", start) - _unit(right[piece], "right", start)
        margin[piece] = np.einsum("nd,nd->n", at, difference)
    return margin


def probability_of(margin: Array, scale: float = SCALE) -> npt.NDArray[np.float64]:
    """P(left preferred) = sigmoid(scale margin), shape (n,): the softmax of the two scaled cosines."""
    return np.asarray(0.5 + np.tanh(scale * np.asarray(margin, np.float64) / 2) / 2)


def zero_shot_accuracy(margin: Array, label: Array) -> float:
    """Share of decided answers that a margin predicts; ties are left out, a margin of exactly 0 is half right.

    Args:
        margin: shape (n,), more than 0 where left is predicted.
        label: P(left preferred) as answered, shape (n,).

    Returns:
        NaN where nothing is decided.
    """
    said = np.sign(np.asarray(label, np.float64) - 0.5)
    right = (1 + np.sign(np.asarray(margin, np.float64)) * said)[said != 0] / 2
    return float(right.mean()) if len(right) else float("nan")


def tie_accuracy(probability: Array, label: Array, threshold: float) -> float:
    """Pick-a-Pic's accuracy, ties included; NaN without answers.

    Args:
        probability: P(left preferred) as predicted, shape (n,).
        label: as answered, shape (n,); 0.5 is a tie.
        threshold: a tie is predicted where P(left) and P(right) differ by this or less.
    """
    gap = 2 * np.asarray(probability, np.float64) - 1
    predicted = np.where(np.abs(gap) <= threshold, 0.0, np.sign(gap))
    # a point if they agree, half of one if exactly one of them is a tie, none if they are opposite
    points = 1 - np.abs(predicted - np.sign(np.asarray(label, np.float64) - 0.5)) / 2
    return float(points.mean()) if len(points) else float("nan")


def best_threshold(probability: Array, label: Array) -> float:
    """The threshold of `THRESHOLDS` with the highest accuracy on these answers (n,), the first of equals."""
    return max(THRESHOLDS, key=lambda threshold: tie_accuracy(probability, label, threshold))


def _unit(vectors: Array, what: str, start: int) -> npt.NDArray[np.float64]:
    vectors = vectors.astype(np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not length.all():
        raise InputError(f"{what} embedding of row {start + int(np.argmin(length)) + 1} is all zeros: embed it again")
    return np.asarray(vectors / length)
