import torch

from pal._eigen import eigh


def test_numpy_serves_where_torch_does_not_converge(monkeypatch):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, vectors = eigh(x.T @ x)

    def fails(symmetric):
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    again, others = eigh(x.T @ x)
    assert torch.allclose(values, again)
    assert again.dtype == others.dtype == torch.float64
    assert torch.allclose((vectors * others).sum(0).abs(), torch.ones(4, dtype=torch.float64))
