"""Files of answers that a benchmark's server scores, where the right ones are hidden.

A task with such a subset says what the file holds: ``Task.submission``. ``evalkit submission CELL``
writes it from the answers in the journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from evalkit.errors import UsageError


@dataclass(frozen=True)
class Submission:
    """A file by the name that it should have, and where it is to be sent."""

    name: str
    content: bytes
    site: str

    @classmethod
    def json(cls, name: str, value: Any, site: str) -> Submission:
        """Any JSON value, in UTF-8."""
        return cls(name, json.dumps(value, ensure_ascii=False, indent=1).encode(), site)

    @classmethod
    def table(cls, name: str, rows: Sequence[Mapping[str, Any]], site: str) -> Submission:
        """A sheet of rows (xlsx), the columns those of the first row; texts stay texts, also those
        that begin like a formula. Raises UsageError where openpyxl is not installed.
        """
        try:
            from openpyxl import Workbook
            from openpyxl.cell import Cell, WriteOnlyCell
        except ModuleNotFoundError as e:
            raise UsageError(
                f"{name} is a spreadsheet, which needs openpyxl: pip install 'evalkit[import]'"
            ) from e
        book = Workbook(write_only=True)
        sheet = book.create_sheet("Sheet1")
        columns = list(dict.fromkeys(column for row in rows for column in row))
        sheet.append(columns)

        def written(value: Any) -> Cell:
            cell = WriteOnlyCell(sheet, value=_printable(value))
            if isinstance(value, str):
                cell.data_type = "s"
            return cell

        for row in rows:
            sheet.append([written(row.get(column)) for column in columns])
        stream = BytesIO()
        book.save(stream)
        return cls(name, stream.getvalue(), site)


def _printable(value: Any) -> Any:
    """A text without the control characters that a sheet can't hold."""
    if not isinstance(value, str):
        return value
    return "".join(c for c in value if c >= " " or c in "\t\n")[:32767]
