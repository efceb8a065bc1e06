"""The cost model of docs/scaling.md: what its formulas predict beside what is measured, at three sizes each.

Run `python benchmarks/scaling.py`. Times are CPU seconds of one thread, best of several; memory is anonymous memory of
a process of its own. What follows for 10^8 users, 10^10 comparisons and 10^9 items is computed from the measured numbers.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.distributed as dist

import machine
import pal
from pal import TrainConfig
from pal._training.run import Run
from pal._training.tables import Tables
from pal.adaptation import solve_weights
from pal.model import ModelConfig
from pal.questions import Answers, Questions
from pal.training import model_config
from pal.users import UserWeights

QUESTIONS, DIM, USERS, LATENT, HIDDEN = 3000, 384, 100_000, 16, 64
Row = dict[str, Any]


def best(run: Callable[[], object], seconds: float = 1.0) -> float:
    """CPU seconds of the fastest call."""
    run()
    times, began = [], time.process_time()
    while time.process_time() - began < seconds or len(times) < 3:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def anonymous(peak: bool = False) -> int:
    """Bytes of anonymous memory of this process now; or the most that was resident since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM" if peak else "RssAnon")).split()[1])


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns in a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, given)


def row(size: int, predicted: float, measured: float, **more: Any) -> Row:
    return {"size": size, "predicted": predicted, "measured": measured, "ratio": measured / predicted, **more}


# -- the machine ---------------------------------------------------------------------------------------------------


def rates() -> dict[str, float]:
    a, b = torch.randn(2048, 768), torch.randn(768, 768)
    out, x = torch.mm(a, b), torch.ones(1 << 25)
    y = torch.empty_like(x)
    return {
        "gemm": 2 * a.numel() * b.shape[1] / best(lambda: torch.mm(a, b, out=out)),
        "bandwidth": 2 * x.nbytes / best(lambda: y.copy_(x)),
    }


# -- comparisons ---------------------------------------------------------------------------------------------------


def comparison_bytes(n: int) -> Row:
    rng = np.random.default_rng(0)
    question = rng.integers(0, QUESTIONS, n)
    columns = {"user_id": rng.integers(0, 1000, n), "left_id": question, "right_id": question + QUESTIONS}
    label = rng.integers(0, 2, n).astype(np.float32)
    vectors = (np.arange(2 * QUESTIONS), rng.standard_normal((2 * QUESTIONS, DIM), dtype=np.float32))
    config = TrainConfig(model="a", n_prototypes=3)
    before = anonymous()
    data = pal.embed(pal.Comparisons.from_columns(**columns, label=label), embeddings=vectors)
    few = data.take(np.arange(100))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start, low = anonymous(peak=True), anonymous()
    tables = Tables.of(data, few, model_config(data, config, 3), config)
    answers, table = tables.answers, data.comparisons
    arrays = (table.user, table.left, table.right, table.label)
    fixed = 2 * data.responses.nbytes  # of the items, which do not grow
    return row(
        n,
        8 + 8 + 4 + 4 * 4,
        (sum(t.nbytes for t in (answers.user, answers.question, answers.label, *arrays))) / n,
        resident=(anonymous() - before - fixed) / n,
        peak_of_tables=(anonymous(peak=True) - start + low - low) / n,
    )


def repeated(batch: int, K: int, rate: dict[str, float]) -> Row:
    """Seconds a comparison: maps of the items asked, and bytes of the columns, margins and users' rows."""
    generator = torch.Generator().manual_seed(0)
    n = 2 * batch + 1_000_000
    asked = torch.arange(QUESTIONS)
    vectors = torch.randn(2 * QUESTIONS, DIM, generator=generator)
    questions = Questions(vectors, None, asked, asked + QUESTIONS, None)
    user = torch.randint(USERS, (n,), generator=generator)
    label = torch.randint(2, (n,), generator=generator).float()
    answers = Answers(user, torch.randint(QUESTIONS, (n,), generator=generator), label)
    val = answers.take(torch.arange(100))
    tables = Tables(pl.int_range(USERS, eager=True), questions, answers, questions, val, True)
    shape = ModelConfig("a", K, "mlp", DIM, latent_dim=LATENT, hidden_dim=HIDDEN)
    run = Run(tables, shape, TrainConfig(model="a", batch_size=batch), None)
    order = torch.randperm(n, generator=generator)[:batch]
    seconds = best(lambda: run._step(order), 2.0)
    items = 2 * QUESTIONS * -math.expm1(-batch / QUESTIONS)
    people = USERS * -math.expm1(-batch / USERS)
    maps = items * map_flop(DIM, HIDDEN, LATENT) / rate["gemm"]
    # columns taken, numbered anew and read twice; margins gathered, multiplied, summed, and all that backwards;
    # a user's row read or written some 36 times by softmax, its gradient, the prior and Adam
    moved = (8 + 40 + 64 + 32 + 32 + 8 + 88 * K) + people / batch * 36 * 4 * (K + 1)
    predicted = maps / batch + moved / rate["bandwidth"]
    return row(batch, predicted, seconds / batch, K=K, maps_share=maps / batch / predicted, bytes_moved=moved)


def map_flop(dim: int, hidden: int, latent: int) -> float:
    """FLOP of an item: products of the map forward, to its parameters, and through its second layer."""
    return 4 * map_size(dim, hidden, latent) + 2 * hidden * latent


def map_size(dim: int, hidden: int, latent: int) -> int:
    return dim * (hidden + latent) + hidden * latent


def unique(hidden: int, rate: dict[str, float], batch: int = 1024, dim: int = 768) -> Row:
    """Seconds a comparison where each has two items of its own."""
    n = 40 * batch
    generator = torch.Generator().manual_seed(0)
    pair = torch.arange(n)
    questions = Questions(torch.randn(2 * n, dim, generator=generator), None, pair, pair + n, None)
    user, label = torch.randint(1000, (n,)), torch.randint(2, (n,)).float()
    answers = Answers(user, pair, label)
    few = Answers(user[:1], pair[:1], label[:1])
    tables = Tables(pl.int_range(1000, eager=True), questions, answers, questions.take(pair[:1]), few, True)
    run = Run(
        tables,
        ModelConfig("a", 3, "mlp", dim, latent_dim=LATENT, hidden_dim=hidden),
        TrainConfig(model="a", batch_size=batch),
        None,
    )
    orders = iter(torch.randperm(n, generator=generator).split(batch) * 1000)
    seconds = best(lambda: run._step(next(orders)), 3.0) / batch
    flop = 2 * map_flop(dim, hidden, LATENT)
    return row(map_size(dim, hidden, LATENT), flop / rate["gemm"], seconds, flop=flop)


# -- users ---------------------------------------------------------------------------------------------------------


def user_bytes(n: int, K: int = 6) -> Row:
    some = torch.arange(1000)
    questions = Questions(torch.randn(20, 16), None, torch.arange(10), torch.arange(10, 20), None)
    answers = Answers(some % n, some % 10, (some % 2).float())
    tables = Tables(pl.int_range(n, eager=True), questions, answers, questions, answers.take(some[:10]), True)
    _ = tables.counts
    before = anonymous()
    run = Run(tables, ModelConfig("a", K, "linear", 16), TrainConfig(model="a"), None)
    held = (run.table, run.best["table"], run.users.m, run.users.v, run.users.t)
    predicted, grown = 4 * (4 * (K + 1) + 1), anonymous() - before
    return row(n, predicted, sum(t.nbytes for t in held) / n, resident=grown / n)


def solving(users: int, rate: dict[str, float], answers: int = 20, K: int = 6) -> Row:
    """Seconds a user; the prediction is the FLOP of six Newton steps at the rate of a product of matrices."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    user = torch.arange(users).repeat_interleave(answers)
    margins = 2 * torch.randn(users * answers, K, generator=generator)
    weights = torch.distributions.Dirichlet(torch.full((K,), 0.5)).sample((users,))
    p = torch.sigmoid((margins * weights[user]).sum(1))
    label = (torch.rand(len(p), generator=generator) < p).float()
    seconds = best(lambda: solve_weights(margins, label, user, users), 0.5)
    flop = 6 * (answers * (4 * K + 2 * K * K) + K**3 / 3)
    return row(users, flop / rate["gemm"], seconds / users, answers=answers, K=K)


def saved_user(n: int, K: int = 6) -> Row:
    weights = torch.distributions.Dirichlet(torch.ones(K)).sample((n,))
    ids = pl.Series("user_id", [f"user-{i:07d}" for i in range(n)])
    users = UserWeights(ids, weights, torch.full((n,), 20), torch.ones(n), torch.full((n,), 30.0))
    with tempfile.TemporaryDirectory() as folder:
        users.to_frame().write_parquet(Path(folder) / "users.parquet")
        size = (Path(folder) / "users.parquet").stat().st_size
    return row(n, 12 + 4 * K + 8 + 4 + 4, size / n)


# -- items, network, serving -----------------------------------------------------------------------------------------


def item_bytes(n: int, kind: str) -> Row:
    encoder = pal.HashingEncoder(DIM)
    contents = pl.Series([f"item {i}" for i in range(n)])
    with tempfile.TemporaryDirectory() as folder:
        table = pal.Comparisons.from_columns(user_id=[0] * (n // 2), left=contents[: n // 2], right=contents[n // 2 :],
                                             label=[1.0] * (n // 2))  # fmt: skip
        pal.embed(table, encoder, store=folder, dtype=kind)
        files = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
        held = pal.EmbeddingStore(folder)._ids.estimated_size()
    predicted = DIM * (2 if kind == "float16" else 4) + 32 + 8  # the vector, what a sha256 says, a checksum
    return row(n, predicted, sum(files.values()) / n, dtype=kind, ids=files["ids.parquet"] / n, ids_in_memory=held / n)


def _one_of_two(rank: int, port: int, sizes: tuple[int, ...], out: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found: dict[int, list[int]] = {size: [] for size in sizes}
    for size in sizes * 7:
        x = torch.ones(size)
        dist.barrier()
        before = _sent()
        dist.all_reduce(x)
        dist.all_reduce(x)
        dist.barrier()
        found[size].append((_sent() - before) // 2)
    if rank == 0:
        out.put({size: min(seen) for size, seen in found.items()})  # others talk on this interface too
    dist.barrier()


def _sent() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[8])


def network(sizes: tuple[int, ...]) -> list[Row]:
    """Bytes a process sends in an all_reduce of P floats between N = 2."""
    context = multiprocessing.get_context("spawn")
    out, port = context.Queue(), 20_000 + os.getpid() % 20_000
    both = [context.Process(target=_one_of_two, args=(rank, port, sizes, out)) for rank in range(2)]
    for one in both:
        one.start()
    found = out.get(timeout=60)
    for one in both:
        one.join()
    return [row(size, 2 * (2 - 1) / 2 * 4 * size, found[size] / 2) for size in sizes]


def serving(R: int, rate: dict[str, float], K: int, catalogue: int = 1_000_000) -> Row:
    """Seconds a request: the rewards of R responses kept together; and of R anywhere in a catalogue, best ten."""
    rng = np.random.default_rng(0)
    cached, w = rng.standard_normal((R, K), dtype=np.float32), rng.random(K, dtype=np.float32)
    everything = rng.standard_normal((catalogue, K), dtype=np.float32)
    wanted = rng.integers(0, catalogue, (1000, R))
    turn = iter(list(range(1000)) * 10_000)

    def gathered() -> Any:
        rows = wanted[next(turn)]
        reward = everything[rows] @ w
        return rows[np.argpartition(reward, -10)[-10:]]

    def several(run: Callable[[], object], times: int = 100) -> float:
        return best(lambda: [run() for _ in range(times)], 0.3) / times

    few = cached[:1]
    call = several(lambda: few @ w)
    one = several(lambda: cached @ w)
    scattered = several(gathered, 1000)
    return row(R, call + 4 * R * (K + 1) / rate["bandwidth"], one, K=K, per_second=1 / one, scattered=1 / scattered)


# -- on paper --------------------------------------------------------------------------------------------------------

U, N, ITEMS = 10**8, 10**10, 10**9
ASSUMED = {
    "cores_a_machine": 64,
    "share_of_a_core_among_64": 0.5,  # what is left of one busy core's rate when all work: memory is shared
    "gpu_flop_per_second": 1e14,  # a third of the peak of an 80 GB accelerator in bfloat16
    "network_bytes_per_second": 1e10,  # 100 Gbit/s, 80% of it
    "machine_memory": 512e9,
    "epochs": 5,
    "batch": 2**20,
    "questions_repeated": 10_000,
    "machines": 16,
    "gpus": 16,
    "tokens_an_item": 100,
    "encoder_parameters": 110e6,
}


def on_paper(found: dict[str, Any], rate: dict[str, float], K: int = 8) -> dict[str, Any]:
    """Bytes, and hours of the whole cluster."""
    a = ASSUMED
    cores = a["machines"] * a["cores_a_machine"] * a["share_of_a_core_among_64"]
    cpu, gpu, hour = cores * rate["gemm"], a["gpus"] * a["gpu_flop_per_second"], 3600
    user, item = 4 * (4 * (K + 1) + 1), found["item_bytes"][-1]
    steps = N / a["batch"]
    out: dict[str, Any] = {"assumed": a, "cores_at_full_rate": cores}
    overhead = item["ids"]
    out["disk"] = {f"items_{d}_float16": ITEMS * (2 * d + overhead) for d in (384, 768)}
    out["disk"] |= {"comparisons_int32": 16 * N, "users": U * (found["saved_user"][-1]["measured"] + 4 * (K - 6))}
    out["memory"] = {
        "comparisons_one_process": N * found["comparison_bytes"][-1]["measured"],
        "peak_of_tables_one_process": N * found["comparison_bytes"][-1]["peak_of_tables"],
        "a_worker_of_16_own_comparisons": N * found["comparison_bytes"][-1]["measured"] / a["machines"],
        "every_worker_order_and_place": 16 * N,
        "every_worker_draw_and_places_when_reading": 8 * N + 8 * N + N + 8 * N,  # random, cumsum, mask, worker
        "every_worker_keys_gathered_if_all_are_unique": 8 * N,
        "users_in_training": U * user,
        "checkpoint": U * user,
        "all_users_gathered": U * (4 * K + 8 + 4 + 4 + 8),
        "vectors_float32": {d: ITEMS * 4 * d for d in (384, 768)},
        "store_ids": ITEMS * item["ids_in_memory"],
    }
    out["unique"] = {}
    for name, d, h, latent in (("default", 384, 64, 32), ("paper", 768, 735, 16)):
        P, flop = map_size(d, h, latent), 2 * map_flop(d, h, latent)
        like = min(found["unique"], key=lambda r: abs(math.log(r["size"] / P)))["ratio"]
        wire = 2 * (a["machines"] - 1) / a["machines"] * 4 * P
        slow, fast = N * flop * like / cpu / hour, N * flop / gpu / hour
        read = N * 2 * 2 * d / a["machines"]
        out["unique"][name] = {
            "parameters": P,
            "flop_a_comparison": flop,
            "flop_an_epoch": N * flop,
            "measured_over_formula": like,
            "cpu_hours_an_epoch": slow,
            "cpu_hours_a_fit": a["epochs"] * slow,
            "gpu_hours_an_epoch": fast,
            "bytes_of_vectors_gathered_a_machine_an_epoch": read,
            "seconds_a_step_cpu": slow * hour / steps,
            "network_bytes_a_step": wire,
            "network_share_cpu": wire / a["network_bytes_per_second"] / (slow * hour / steps),
            "network_share_gpu": wire / a["network_bytes_per_second"] / (fast * hour / steps),
            "hours_of_network_to_fetch_vectors": read / a["network_bytes_per_second"] / hour,
        }
    seconds = found["repeated_8"]["measured"]
    slow = N * seconds / cores / hour
    out["repeated"] = {
        "nanoseconds_a_comparison_and_core": 1e9 * seconds,
        "cpu_hours_an_epoch": slow,
        "cpu_hours_a_fit": a["epochs"] * slow,
        "seconds_a_step": slow * hour / steps,
        "comparisons_a_question_in_a_machine's_share_of_a_step": a["batch"] / a["machines"] / a["questions_repeated"],
    }
    flop = ITEMS * 2 * a["encoder_parameters"] * a["tokens_an_item"]
    out["embedding"] = {"flop": flop, "cpu_hours": flop / cpu / hour, "gpu_hours": flop / gpu / hour}
    one = found["solving_100"]["measured"]
    out["solving"] = {"core_hours_once": U * one / hour, "cpu_hours_twice": 2 * U * one / cores / hour}
    served = found["serving_8"]
    out["serving"] = {
        "requests": 1e5,
        "responses": served["size"],
        "cores_at_half_rate": 1e5 / served["scattered"] / a["share_of_a_core_among_64"],
        "prototype_rewards_float32": ITEMS * 4 * K,
        "prototype_rewards_float16": ITEMS * 2 * K,
        "users": U * (4 * K + 8),
        "bytes_gathered_a_second": 1e5 * served["size"] * 64,  # a line of the cache each
        "network_bytes_a_second": 1e5 * served["size"] * (8 + 4),
        "hours_of_cpu_cluster_to_compute_them_paper": ITEMS * 2 * map_size(768, 735, 16) / cpu / hour,
    }
    return out


def main() -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    rate = rates()
    found: dict[str, Any] = {"rates": rate}

    def add(name: str, value: Any) -> None:
        found[name] = value
        for one in value if isinstance(value, list) else [value]:
            print(name, {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in one.items()}, flush=True)

    add("rates", rate)
    add("comparison_bytes", [apart(comparison_bytes, n) for n in (10**4, 10**5, 10**6)])
    add("user_bytes", [apart(user_bytes, n) for n in (10**4, 10**5, 10**6)])
    add("repeated", [repeated(batch, 3, rate) for batch in (8192, 65_536, 262_144)])
    add("repeated_8", repeated(65_536, 8, rate))
    add("unique", [unique(hidden, rate) for hidden in (32, 176, 735)])
    add("solving", [solving(n, rate) for n in (10**3, 10**4, 10**5)])
    add("solving_100", solving(10**4, rate, answers=100, K=8))
    add("saved_user", [saved_user(n) for n in (10**4, 10**5, 10**6)])
    add("item_bytes", [item_bytes(n, kind) for kind in ("float32", "float16") for n in (10**3, 10**4, 10**5)])
    add("network", network((10**4, 10**5, 10**6)))
    add("serving", [serving(n, rate, 6) for n in (10**2, 10**3, 10**4)])
    add("serving_8", serving(100, rate, 8))
    paper = on_paper(found, rate)
    for part, numbers in paper.items():
        print(part, numbers)
    machine.write("scaling", {**found, "on_paper": paper, "seconds": time.perf_counter() - began})


if __name__ == "__main__":
    main()
