"""The cost model of docs/scaling.md: what its formulas predict beside what is measured, at three sizes each.

Run `python benchmarks/scaling.py`. Times are CPU seconds of one thread, best of several; memory is that of a process
of its own. What follows for 10^8 users, 10^10 comparisons and 10^9 items is computed from the measured numbers.
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
from pal._training.run import PIECE, Run
from pal._training.tables import Tables
from pal.adaptation import solve_weights
from pal.embeddings import EmbeddingStore, HashingEncoder
from pal.model import ModelConfig
from pal.questions import Answers, Questions
from pal.training import model_config
from pal.users import UserWeights

QUESTIONS, DIM, USERS, LATENT, HIDDEN = 3000, 384, 100_000, 16, 64
INGEST = 7.8e-7  # seconds a row, of benchmarks/results/ingest.json
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
    y, thin = torch.empty_like(x), torch.randn(1 << 16, 3)
    return {
        "softmax": best(lambda: torch.softmax(thin, dim=1), 0.5) / len(thin),  # seconds a row of three
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
    start = anonymous(peak=True)
    tables = Tables.of(data, few, model_config(data, config, 3), config)
    answers, table = tables.answers, data.comparisons
    arrays = (table.user, table.left, table.right, table.label)
    fixed = 2 * data.responses.nbytes  # of the items, which do not grow
    return row(
        n,
        8 + 8 + 4 + 4 * 4,
        (sum(t.nbytes for t in (answers.user, answers.question, answers.label, *arrays))) / n,
        resident=(anonymous() - before - fixed) / n,
        peak_of_tables=(anonymous(peak=True) - start) / n,
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
    gather = best(lambda: user[order], 0.3) / batch  # seconds a number, of a column of the table
    seconds = best(lambda: run._step(run.drawn, order), 2.0)
    gather = min(gather, best(lambda: user[order], 0.3) / batch)  # others use the cache too
    distinct = QUESTIONS * -math.expm1(-batch / QUESTIONS)
    items = 2 * distinct
    if by_piece := distinct > max(PIECE, batch // 4):  # a question is mapped again in each piece
        items = 2 * batch / PIECE * QUESTIONS * -math.expm1(-PIECE / QUESTIONS)
    people = USERS * -math.expm1(-batch / USERS)
    maps = items * map_flop(DIM, HIDDEN, LATENT) / rate["gemm"]
    # columns taken, numbered anew and read twice; margins gathered, multiplied, summed, and all that backwards;
    # a user's row read or written some 36 times by softmax, its gradient, the prior and Adam
    moved = (196 + 88 * K) + people / batch * 36 * 4 * (K + 1) + items / batch * 2 * 4 * DIM
    plain = maps / batch + moved / rate["bandwidth"]
    # what that misses: 13 of a comparison's accesses and 9 of a user's are one by one, and softmax is slow on thin rows
    pieces = batch / PIECE if by_piece else 1
    more = 13 * gather + people / batch * (9 * gather + (1 + 2 * pieces) * rate["softmax"])
    predicted = plain + more
    found = row(batch, predicted, seconds / batch, K=K, plain=plain, plain_ratio=seconds / batch / plain)
    return found | {"maps_share": maps / batch / predicted, "by_piece": by_piece, "gather": gather}


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
    seconds = best(lambda: run._step(run.drawn, next(orders)), 3.0) / batch
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
    ids = pl.Series("user_id", [f"user-{i:07d}" for i in torch.randperm(n).tolist()])
    users = UserWeights(ids, weights, torch.randint(1, 1000, (n,)), torch.ones(n), torch.rand(n) * 100)
    with tempfile.TemporaryDirectory() as folder:
        users.to_frame().write_parquet(Path(folder) / "users.parquet")
        size = (Path(folder) / "users.parquet").stat().st_size
    return row(n, 12 + 8 + 4 * K + 4, size / n)  # an id, a count, weights, how sure they are


# -- items, network, serving -----------------------------------------------------------------------------------------


def item_bytes(n: int, kind: str) -> Row:
    encoder = HashingEncoder(DIM)
    contents = pl.Series([f"item {i}" for i in range(n)])
    with tempfile.TemporaryDirectory() as folder:
        table = pal.Comparisons.from_columns(user_id=[0] * (n // 2), left=contents[: n // 2], right=contents[n // 2 :],
                                             label=[1.0] * (n // 2))  # fmt: skip
        pal.embed(table, encoder, store=folder, dtype=kind)
        files = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
        held = EmbeddingStore(folder)._ids.estimated_size()
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
    dist.destroy_process_group()


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

U, N, ITEMS, ON_PAPER_K, HOUR = 10**8, 10**10, 10**9, 8, 3600
ASSUMED = {
    "machines": 16,
    "cores_a_machine": 64,
    "share_of_a_core": 0.5,  # what is left of the rate of one core when all of them work: memory is shared
    "gpus": 16,
    "gpu_flop_per_second": 1e14,  # a third of the peak of an 80 GB accelerator in bfloat16
    "network_bytes_per_second": 1e10,  # 100 Gbit/s, 80% of it
    "network_seconds_a_hop": 20e-6,
    "disk_bytes_per_second": 1e9,
    "memory_miss_seconds": 1e-7,
    "batch": 2**20,
    "epochs": 5,
    "questions_repeated": 10_000,
    "tokens_an_item": 100,
    "encoder_parameters": 110e6,
    "requests_per_second_a_core_of_http": 2000,
}


def on_paper(found: dict[str, Any], rate: dict[str, float]) -> dict[str, Any]:
    """Bytes, and hours of the whole cluster."""
    a, K, machines, batch = ASSUMED, ON_PAPER_K, ASSUMED["machines"], ASSUMED["batch"]
    cores = machines * a["cores_a_machine"] * a["share_of_a_core"]
    cpu, gpu = cores * rate["gemm"], a["gpus"] * a["gpu_flop_per_second"]
    each, item, steps = found["comparison_bytes"][-1], found["item_bytes"][-1], N / batch
    user, seen = 4 * (4 * (K + 1) + 1), -math.expm1(-2 * N / machines / ITEMS)

    def training(seconds: float, P: int) -> Row:
        """Hours, and what the network takes of a step, of so many seconds an epoch."""
        wire = 2 * (machines - 1) / machines * 4 * P
        sent, hops = wire / a["network_bytes_per_second"], 2 * (machines - 1) * a["network_seconds_a_hop"]
        step = seconds / steps
        return {
            "hours_an_epoch": seconds / HOUR,
            "hours_a_fit": a["epochs"] * seconds / HOUR,
            "seconds_a_step": step,
            "network_bytes_a_step": wire,
            "network_share_bytes": sent / (step + sent + hops),
            "network_share_with_hops": (sent + hops) / (step + sent + hops),
        }

    out: dict[str, Any] = {"assumed": a, "cores_at_full_rate": cores, "cpu_flop_per_second": cpu, "steps": steps}
    out["disk"] = {f"items_{d}": ITEMS * (2 * d + item["ids"]) for d in (384, 768)}
    out["disk"] |= {"comparisons": 16 * N, "users": U * (found["saved_user"][-1]["measured"] + 4 * (K - 6))}
    out["memory"] = {
        "comparisons_one_process": N * each["measured"],
        "peak_of_tables_one_process": N * (16 + each["peak_of_tables"]),
        "comparisons_a_worker": N * each["measured"] / machines,
        "order_and_place_every_worker": 16 * N,
        "reading_every_worker": (8 + 8 + 1 + 8) * N,  # a draw, a count, a mask and a worker for each row of all
        "question_keys_every_worker": 8 * N,
        "items_a_worker_sees": seen,
        **{f"vectors_a_worker_{d}": seen * ITEMS * 4 * d for d in (384, 768)},
        "users_in_training": U * user,
        "checkpoint_seconds": U * user / machines / a["disk_bytes_per_second"],
        "all_users_gathered": U * (4 * K + 8 + 4 + 4 + 8),
        "store_ids": ITEMS * item["ids_in_memory"],
        "store_ids_file": ITEMS * item["ids"],
    }
    out["validation_rows_for_one_of_training"] = 0.1 * N / (25 * batch)
    out["ingest_hours"] = N * INGEST / HOUR
    for name, d, hidden, latent in (("default", 384, 64, 32), ("paper", 768, 735, 16)):
        P, flop = map_size(d, hidden, latent), 2 * map_flop(d, hidden, latent)
        like = min(found["unique"], key=lambda r: abs(math.log(r["size"] / P)))["ratio"]
        fetched = 2 * N * 2 * d / machines  # float16 vectors of both sides
        out[f"unique_{name}"] = {
            "parameters": P,
            "flop_a_comparison": flop,
            "measured_over_formula": like,
            "cpu": training(N * flop * like / cpu, P),
            "gpu": training(N * flop / gpu, P),
            "vectors_fetched_a_machine_an_epoch": fetched,
            "hours_to_fetch_them": fetched / a["network_bytes_per_second"] / HOUR,
        }
    one, asked, share = found["repeated_8"], a["questions_repeated"], batch / machines

    def distinct(questions: float, answers: float) -> float:
        return questions * -math.expm1(-answers / questions)

    more = 2 * (distinct(asked, share) - distinct(QUESTIONS, one["size"])) * map_flop(DIM, HIDDEN, LATENT)
    seconds = one["measured"] + found["unique"][0]["ratio"] * more / rate["gemm"] / share
    out["repeated"] = {
        "seconds_a_comparison_and_core": seconds,
        "answers_a_question_and_step_a_machine": share / distinct(asked, share),
        "answers_a_question_and_step_a_core": share / 64 / distinct(asked, share / 64),
        "cpu": training(N * seconds / cores, map_size(DIM, HIDDEN, LATENT)),
    }
    flop = ITEMS * 2 * a["encoder_parameters"] * a["tokens_an_item"]
    out["embedding"] = {"flop": flop, "cpu_hours": flop / cpu / HOUR, "gpu_hours": flop / gpu / HOUR}
    once = U * found["solving_100"]["measured"]
    out["solving"] = {"core_hours_once": once / HOUR, "cpu_seconds_twice": 2 * once / cores}
    R, request = found["serving_8"]["size"], 1 / found["serving_8"]["scattered"]
    request += R * a["memory_miss_seconds"]
    out["serving"] = {
        "responses": R,
        "microseconds_a_request": 1e6 * request,
        "cores": 1e5 * request / a["share_of_a_core"],
        "cores_of_http": 1e5 / a["requests_per_second_a_core_of_http"],
        "prototype_rewards_float32": ITEMS * 4 * K,
        "prototype_rewards_float16": ITEMS * 2 * K,
        "users": U * (4 * K + 8),
        "gathered_a_second": 1e5 * R * 64,  # a line of the cache each
        "network_bytes_a_second": 1e5 * R * (8 + 4),
        "seconds_to_map_all_items_paper": ITEMS * 2 * map_size(768, 735, 16) / cpu,
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
    add("repeated_8", repeated(65_536, ON_PAPER_K, rate))
    add("unique", [unique(hidden, rate) for hidden in (32, 176, 735)])
    add("solving", [solving(n, rate) for n in (10**3, 10**4, 10**5)])
    add("solving_100", solving(10**4, rate, answers=100, K=ON_PAPER_K))
    add("saved_user", [saved_user(n) for n in (10**4, 10**5, 10**6)])
    add("item_bytes", [item_bytes(n, kind) for kind in ("float32", "float16") for n in (10**3, 10**4, 10**5)])
    add("network", network((10**4, 10**5, 10**6)))
    add("serving", [serving(n, rate, 6) for n in (10**2, 10**3, 10**4)])
    add("serving_8", serving(100, rate, ON_PAPER_K))
    paper = on_paper(found, rate)
    for part, numbers in paper.items():
        print(part, numbers)
    machine.write("scaling", {**found, "on_paper": paper, "seconds": time.perf_counter() - began})


if __name__ == "__main__":
    main()
