"""Eigenvectors of symmetric matrices."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["eigh"]


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n), as columns, of a symmetric matrix.

    As `torch.linalg.eigh`, which does not always converge where the rank is one, as of votes: then numpy's.
    """
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = (torch.from_numpy(each).to(symmetric) for each in np.linalg.eigh(symmetric.cpu().numpy()))
    return values, vectors
