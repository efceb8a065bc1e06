"""The second process of sharded fits, without Ray: each line on its stdin is the folder of one.

It answers "done", or "failed", and the folder; its end is that of its stdin.
"""

import pickle
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from pal._distributed.training import fit_shard

torch.set_num_threads(1)
for line in sys.stdin:
    folder = Path(line.removesuffix("\n"))
    torch.manual_seed(0)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=1, world_size=2, timeout=timedelta(seconds=120)
        )
        fit_shard(pickle.loads((folder / "given.pkl").read_bytes()), 1, 2)
        dist.barrier()
        print("done", folder, flush=True)
    except Exception:
        traceback.print_exc()
        print("failed", folder, flush=True)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
