"""Inside `pal.distributed`: the cluster, tables by the piece, and a fit with users sharded. Ray is imported here."""
