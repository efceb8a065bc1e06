"""Maps from the encoder's space to the latent space: linear, or a two-layer MLP with a residual connection.

A map may hold several *copies* with parameters of their own (the K prompt maps g_k of model B); all copies are
computed in one matrix product. It sees inputs less a shift and times a scale, which are saved with it (`Map.place`).
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pal._checks import one_of

__all__ = ["MAPS", "LinearMap", "MLPMap", "Map", "make_map"]

MAPS = ("mlp", "linear")


class Map(nn.Module, ABC):
    """What both maps have in common: where their inputs lie.

    Args:
        in_dim: D, of the embeddings.
        out_dim: d, of the latent space.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        # buffers, so that a saved model sees its inputs as training did
        self.register_buffer("input_shift", torch.zeros(in_dim))
        self.register_buffer("input_scale", torch.ones(()))
        self.input_shift: Tensor
        self.input_scale: Tensor

    @torch.no_grad()
    def place(self, shift: Tensor, length: float) -> None:
        """Makes the map take ``shift`` (D,) from its inputs and divide them by ``length`` (in place)."""
        self.input_shift.copy_(shift)
        self.input_scale.fill_(1.0 / length if length > 0 else 1.0)

    def inputs_of(self, points: Tensor) -> Tensor:
        """Embeddings (B, D) that the map sees as ``points`` (B, D)."""
        return points / self.input_scale + self.input_shift

    @torch.no_grad()
    def stretch(self, factor: float) -> None:
        """Multiplies what the map gives (in place)."""
        self.input_scale.mul_(factor)

    @abstractmethod
    def lead(self, direction: Tensor) -> Tensor:
        """A latent point a (d,) with <a, f(x)> = <direction, x> for inputs x as the new map f sees them.

        Args:
            direction: (D,); the first latent coordinate becomes that, where it has to (in place).
        """


class LinearMap(Map):
    """x -> W x without bias (paper, E.3).

    Args:
        in_dim: D, of the embeddings.
        out_dim: d, of the latent space.
        copies: number of maps with parameters of their own.
        generator: source of the initial values; all copies start alike.
    """

    def __init__(self, in_dim: int, out_dim: int, copies: int = 1, *, generator: torch.Generator) -> None:
        super().__init__(in_dim, out_dim)
        start = torch.randn(1, out_dim, in_dim, generator=generator) / math.sqrt(out_dim)
        self.weight = nn.Parameter(start.repeat(copies, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, D) -> latent vectors (B, copies, d)."""
        y = torch.mm(x - self.input_shift, self.weight.flatten(0, 1).T * self.input_scale)
        return y.view(len(x), *self.weight.shape[:2])

    @torch.no_grad()
    def lead(self, direction: Tensor) -> Tensor:
        """See `Map.lead`."""
        return _led(self.weight, direction)


class MLPMap(Map):
    """x -> S x + W2 dropout(relu(W1 x + b)): two layers with a residual connection (paper, E.4).

    The residual connection S is the identity where ``in_dim == out_dim`` and a linear map otherwise. The second layer
    starts at zero, so that training starts from the linear map.

    Args:
        in_dim: D, of the embeddings.
        out_dim: d, of the latent space.
        copies: number of maps with parameters of their own.
        hidden_dim: width of the hidden layer.
        dropout: probability that a hidden unit is left out in a training step.
        generator: source of the initial values and of the dropout masks; all copies start alike.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        copies: int = 1,
        *,
        hidden_dim: int,
        dropout: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.dropout, self.generator = dropout, generator

        def start(*shape: int) -> Tensor:
            return torch.randn(1, *shape, generator=generator)

        self.skip = (
            None
            if in_dim == out_dim
            else nn.Parameter((start(out_dim, in_dim) / math.sqrt(out_dim)).repeat(copies, 1, 1))
        )
        self.hidden = nn.Parameter(start(hidden_dim, in_dim).repeat(copies, 1, 1))
        self.bias = nn.Parameter(torch.zeros(copies, hidden_dim))
        self.out = nn.Parameter(torch.zeros(copies, hidden_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, D) -> latent vectors (B, copies, d)."""
        copies, width = self.bias.shape
        x = x - self.input_shift
        rows = (
            [self.hidden.flatten(0, 1)] if self.skip is None else [self.hidden.flatten(0, 1), self.skip.flatten(0, 1)]
        )
        # one product for both layers that see the input, its scale on the smaller factor, the bias in the product
        bias = F.pad(self.bias.flatten(), (0, sum(map(len, rows[1:]))))
        z = torch.addmm(bias, x, torch.cat(rows).T * self.input_scale)
        hidden, skip = torch.split(z, [copies * width, z.shape[1] - copies * width], dim=1)
        h = torch.relu(hidden).view(len(x), copies, width)
        if self.training and self.dropout:
            keep = torch.rand(h.shape, generator=self.generator, device=self.generator.device) >= self.dropout
            h = h * keep.to(h) / (1 - self.dropout)
        # width ** -0.5 keeps a step of Adam on `out` as large as one on `skip`
        y = torch.einsum("bch,chd->bcd", h, self.out) / math.sqrt(width)
        if self.skip is None:
            return y + (x * self.input_scale)[:, None, :]
        return y + skip.view(len(x), copies, self.out_dim)

    @torch.no_grad()
    def lead(self, direction: Tensor) -> Tensor:
        """See `Map.lead`."""
        return direction if self.skip is None else _led(self.skip, direction)

    @torch.no_grad()
    def stretch(self, factor: float) -> None:
        """Multiplies what the map gives (in place)."""
        super().stretch(factor)
        self.hidden.div_(factor)
        self.out.mul_(factor)


def _led(weight: Tensor, direction: Tensor) -> Tensor:
    """The first unit vector (d,): rows (copies, d, D) begin with the direction, in place."""
    weight[:, 0] = direction
    return F.one_hot(torch.tensor(0), weight.shape[1]).to(weight)


def make_map(
    kind: str,
    in_dim: int,
    out_dim: int,
    copies: int = 1,
    *,
    hidden_dim: int,
    dropout: float,
    generator: torch.Generator,
) -> LinearMap | MLPMap:
    """The map that ``TrainConfig(map=kind)`` names."""
    one_of("map", kind, MAPS)
    if kind == "linear":
        return LinearMap(in_dim, out_dim, copies, generator=generator)
    return MLPMap(in_dim, out_dim, copies, hidden_dim=hidden_dim, dropout=dropout, generator=generator)
