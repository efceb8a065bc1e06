"""Users a second of the adaptation solver (20 answers, K = 6, uniform prior, strength 1), and one more answer of one.

Run `python benchmarks/solver.py`; the reference of the same run is mirror descent on the same problem, batched, until
every gap is within the tolerance or for 300 steps.
"""

import time
from typing import Any

import pal  # before torch, as its users do: it settles how torch's threads wait for one another

# isort: split
import torch

import machine
from pal.adaptation import TOLERANCE, solve_weights

ANSWERS, K = 20, 6


def problem(users: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Margins (B, K) with a spread of 2, labels drawn from true weights, users (B,)."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    user = torch.arange(users).repeat_interleave(ANSWERS)
    margins = 2 * torch.randn(users * ANSWERS, K, generator=generator)
    weights = torch.distributions.Dirichlet(torch.full((K,), 0.5)).sample((users,))
    p = torch.sigmoid((margins * weights[user]).sum(1))
    return margins, (torch.rand(len(p), generator=generator) < p).float(), user


def objective(w: torch.Tensor, m: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """J (U,) and its gradient (U, K) of users with as many answers each: m (U, n, K), y (U, n)."""
    z = torch.bmm(m, w[:, :, None]).squeeze(2)
    value = (torch.nn.functional.softplus(z) - y * z).sum(1) - (w.log().mean(1) + torch.tensor(float(K)).log())
    grad = torch.bmm((torch.sigmoid(z) - y)[:, None, :], m).squeeze(1) - 1 / (K * w)
    return value, grad


def mirror_descent(m: torch.Tensor, y: torch.Tensor, steps: int = 300) -> torch.Tensor:
    """Ratios (U,) of the gap to its tolerance after so many exponentiated gradient steps."""
    m, y = m.view(-1, ANSWERS, K), y.view(-1, ANSWERS)
    w = torch.full((len(m), K), 1 / K)
    ratio = torch.zeros(len(m))
    for step in range(steps):
        value, grad = objective(w, m, y)
        ratio = ((grad * w).sum(1) - grad.min(1).values) / (TOLERANCE * value.clamp(min=1))
        if bool((ratio <= 1).all()):
            break
        w = w * torch.exp(-0.1 / (1 + step / 30) ** 0.5 * (grad - (grad * w).sum(1, keepdim=True)).clamp(-20, 20))
        w = w.clamp(min=1e-6) / w.clamp(min=1e-6).sum(1, keepdim=True)
    return ratio


def main() -> None:
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    for users in (10_000, 100_000, 1_000_000):
        m, y, u = problem(users)
        times = []
        for _ in range(5 if users < 1_000_000 else 2):
            began = time.perf_counter()
            found = solve_weights(m, y, u, users)
            times.append(time.perf_counter() - began)
        w = found.weights.double()
        value, grad = objective(w, m.double().view(-1, ANSWERS, K), y.double().view(-1, ANSWERS))
        gap = (grad * w).sum(1) - grad.min(1).values  # anew, of the weights as returned
        result[f"{users}"] = {
            "users_per_second": users / min(times),
            "worst_ratio_of_certificate_to_tolerance": float((found.gap / (TOLERANCE * value.clamp(min=1))).max()),
            "worst_ratio_recomputed_from_float32_weights": float((gap / (TOLERANCE * value.clamp(min=1))).max()),
        }
        print(users, result[f"{users}"], flush=True)
    m, y, u = problem(20_000)
    began = time.perf_counter()
    ratio = mirror_descent(m, y)
    seconds = time.perf_counter() - began
    result["mirror_descent"] = {
        "users_per_second": 20_000 / seconds,
        "share_within_tolerance": float((ratio <= 1).float().mean()),
    }
    print("mirror descent", result["mirror_descent"])
    data = pal.simulation.population("a", n_users=60, n_prototypes=K, dim=8, per_user=60).data
    model = pal.fit(data, None, pal.TrainConfig(n_prototypes=K, max_steps=200)).model
    person, times = pal.adaptation.Person(model, data.take(range(20))), []
    for row in range(20, 60):
        question = data.take([row])
        began = time.perf_counter()
        person.answer(question)
        times.append(time.perf_counter() - began)
    inner = []
    for _ in range(40):
        margins = torch.randn(1, K)
        began = time.perf_counter()
        person._add(margins, [1.0], None)
        inner.append(time.perf_counter() - began)
    result["one_more_answer_ms"] = {"update": 1e3 * sorted(inner)[20], "with_maps_and_tables": 1e3 * sorted(times)[20]}
    print("one more answer, ms (median)", result["one_more_answer_ms"])
    machine.write("solver", result)


if __name__ == "__main__":
    main()
