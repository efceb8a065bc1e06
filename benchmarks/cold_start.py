"""From nothing to an answer: `pal rank` with a saved model and cached embeddings, beside importing torch.

Run `python benchmarks/cold_start.py`; each measurement is a process of its own, the best of several.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

REPEATS = 5
PROMPT, RESPONSES = "What shall the town build next?", ["More bus lines.", "A park by the river."]


def best(command: list[str]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    pal = str(Path(sys.executable).with_name("pal"))
    with tempfile.TemporaryDirectory() as name:
        made, model = Path(name) / "town.tsv", str(Path(name) / "model")
        rows = [
            f"person {user}\t{PROMPT}\t{left}\t{right}"
            for user in range(20)
            for left, right in (RESPONSES, RESPONSES[::-1])[user % 2 :][:1]
            for _ in range(3)
        ]
        made = made.with_suffix(".csv")
        made.write_text("user_id,prompt,chosen,rejected\n" + "\n".join(r.replace("\t", ",") for r in rows) + "\n")
        subprocess.run([pal, "fit", str(made), "-o", model, "--prototypes", "2"], check=True, capture_output=True)
        rank = [pal, "rank", model, "--prompt", PROMPT, *RESPONSES]
        subprocess.run(rank, check=True, capture_output=True)  # fills the cache
        reference, ours = best([sys.executable, "-c", "import torch"]), best(rank)
    result = {"import torch": reference, "pal rank": ours, "ratio": ours / reference}
    print(result)
    machine.write("cold_start", result)


if __name__ == "__main__":
    main()
