"""Where the rows of a task come from: the data inside the package, the Hugging Face hub, a local
copy of either, or files of one's own.

All give rows with the columns of the data set, media still encoded, one at a time. A local copy
(``--data docvqa:val=FOLDER``) is a parquet file, a folder of parquet in the hub's layout, or a
folder written by ``Dataset.save_to_disk``. ``datasets`` and ``pyarrow`` are imported when rows are
first asked for.
"""

from evalkit.sources.files import Folder as Folder
from evalkit.sources.files import JsonLines as JsonLines
from evalkit.sources.hub import EMBEDDED as EMBEDDED
from evalkit.sources.hub import Drawn as Drawn
from evalkit.sources.hub import Embedded as Embedded
from evalkit.sources.hub import Hub as Hub
from evalkit.sources.hub import Joined as Joined
from evalkit.sources.hub import TableSource as TableSource
from evalkit.sources.tables import Columns as Columns
from evalkit.sources.tables import table_files as table_files
