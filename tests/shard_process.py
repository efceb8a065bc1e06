"""One of several processes of a sharded fit, without Ray: python shard_process.py FOLDER RANK SIZE."""

import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pal._distributed.training import fit_shard, write_result

folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
result = fit_shard(pickle.loads((folder / "given.pkl").read_bytes()), rank, size)
if rank == 0:
    write_result(result, folder)
dist.barrier()
dist.destroy_process_group()
