"""Symmetric matrices: second moments, and their eigenvectors."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["eigh", "gram"]


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n), as columns, of a symmetric matrix.

    As `torch.linalg.eigh`, which does not always converge where the rank is one, as of votes: then numpy's.
    """
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = (torch.from_numpy(each).to(symmetric) for each in np.linalg.eigh(symmetric.cpu().numpy()))
    return values, vectors


def gram(x: Tensor) -> Tensor:
    """The second moment (m, m) of rows x (n, m), in float64: by the piece, so that millions are not copied at once."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for piece in torch.split(x, 1 << 17):
        wide = piece.double()
        total += wide.T @ wide
    return total
