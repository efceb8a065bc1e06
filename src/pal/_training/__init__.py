"""Inside `pal.training`: settings, tables, the loop, checkpoints, and what is done before and after it."""
