import pytest
import torch

from pal import InputError
from pal.maps import LinearMap, MLPMap, make_map


def made(kind, in_dim=6, out_dim=4, copies=3, seed=0, dropout=0.0):
    generator = torch.Generator().manual_seed(seed)
    return make_map(kind, in_dim, out_dim, copies, hidden_dim=5, dropout=dropout, generator=generator)


def shaken(module):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("out_dim", [4, 6])
def test_each_copy_is_computed_as_if_alone(kind, out_dim):
    maps = shaken(made(kind, out_dim=out_dim))
    shift = torch.randn(6)
    maps.place(shift, 2.5)
    x = torch.randn(7, 6)
    y = maps(x)
    assert y.shape == (7, 3, out_dim)
    torch.testing.assert_close(maps(maps.inputs_of(x)), maps(2.5 * x + shift))
    for c in range(3):
        z = (x - shift) / 2.5
        if kind == "linear":
            expected = z @ maps.weight[c].T
        else:
            hidden = torch.relu(z @ maps.hidden[c].T + maps.bias[c])
            skip = z if maps.skip is None else z @ maps.skip[c].T
            expected = skip + hidden @ maps.out[c] / 5**0.5
        torch.testing.assert_close(y[:, c], expected)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_copies_start_alike_and_the_seed_says_how(kind):
    one, two, other = made(kind), made(kind), made(kind, seed=1)
    x = torch.randn(5, 6)
    y = one(x)
    torch.testing.assert_close(y[:, 0], y[:, 2])
    assert torch.equal(y, two(x))
    assert not torch.equal(y, other(x))


def test_a_linear_map_is_linear_and_without_bias():
    f, x, y = made("linear"), torch.randn(3, 6), torch.randn(3, 6)
    torch.testing.assert_close(f(2 * x - y), 2 * f(x) - f(y), rtol=1e-4, atol=1e-5)
    assert torch.equal(f(torch.zeros(1, 6)), torch.zeros(1, 3, 4))


def test_an_mlp_starts_from_its_residual_connection():
    same = made("mlp", out_dim=6)
    x = torch.randn(4, 6)
    assert same.skip is None
    torch.testing.assert_close(same(x), x[:, None, :].expand(4, 3, 6))
    wide = made("mlp")
    torch.testing.assert_close(wide(x)[:, 0], x @ wide.skip[0].T)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    f = shaken(made("mlp", copies=1, dropout=0.5))
    x = torch.randn(3, 6)
    f.eval()
    whole = f(x)
    assert torch.equal(f(x), whole)
    f.train()
    draws = torch.stack([f(x).detach() for _ in range(2000)])
    assert float((draws[0] - draws[1]).abs().max()) > 1e-3
    torch.testing.assert_close(draws.mean(0), whole.detach(), rtol=0.1, atol=0.25)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_scale_of_inputs_is_saved(kind):
    one, two = made(kind), made(kind, seed=1)
    one.input_scale.fill_(0.25)
    two.load_state_dict(one.state_dict())
    x = torch.randn(2, 6)
    assert torch.equal(one(x), two(x))


def test_names():
    assert isinstance(made("linear"), LinearMap)
    assert isinstance(made("mlp"), MLPMap)
    with pytest.raises(InputError, match="map='cubic' is not known: use 'mlp' or 'linear'"):
        made("cubic")


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("out_dim", [4, 6])
def test_a_direction_leads_to_a_latent_point(kind, out_dim):
    maps = made(kind, out_dim=out_dim)
    maps.place(torch.randn(6), 2.5)
    direction, x = torch.randn(6), torch.randn(7, 6)
    before = maps(x)
    point = maps.lead(direction)
    seen = (x - maps.input_shift) * maps.input_scale
    torch.testing.assert_close(maps(x) @ point, (seen @ direction)[:, None].expand(-1, 3))
    torch.testing.assert_close(maps(x)[:, :, 1:], before[:, :, 1:])
