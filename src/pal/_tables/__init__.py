"""From tables of any accepted form to checked rows; `comparisons` keeps the result.

layout         which columns hold what
frames         tables in memory: frames, data sets, columns
files          tables on disk, and what is wrong with one that does not open
conversations  TRL's lists of messages
rows           every cell checked, ids to rows
"""

from pal._tables.files import from_file, write_frame
from pal._tables.frames import from_columns, from_dataset, from_frame
from pal._tables.layout import Source, show
from pal._tables.rows import PARTS, Items, read_tables

__all__ = [
    "PARTS",
    "Items",
    "Source",
    "from_columns",
    "from_dataset",
    "from_file",
    "from_frame",
    "read_tables",
    "show",
    "write_frame",
]
