"""The tables as files, for those who go on with them elsewhere."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from curvexp.store import replaced

FORMATS = ("csv", "parquet")


def write_tables(tables: Mapping[str, pd.DataFrame], target: str | Path, *, form: str) -> list[Path]:
    """The files written, each replaced as a whole.

    Args:
        tables: by name, the chief one first. target: a file, named *.csv or *.parquet, for the first table; or a folder, made where
            there is none, for all of them as NAME.csv or NAME.parquet. form: `csv` or `parquet`.

    Raises:
        OSError: a file cannot be written.
    """
    if form not in FORMATS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMATS)}")
    target = Path(target)
    if target.suffix == f".{form}" and not target.is_dir():
        files = {target: next(iter(tables.values()))}
    else:
        files = {target / f"{name}.{form}": table for name, table in tables.items()}
    for path, table in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as beside:
            if form == "csv":
                table.to_csv(beside, index=False)
            else:
                _one_type_a_column(table).to_parquet(beside, index=False)
    return list(files)


def _one_type_a_column(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of mixed types (a step size of 0.1 here, `auto` there) as text, as Parquet wants them."""
    mixed = [str(name) for name, kind in table.dtypes.items() if pd.api.types.is_object_dtype(kind)]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("str") for name in mixed})
