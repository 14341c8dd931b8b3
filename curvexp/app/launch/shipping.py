"""A job's folder as a zip, for a worker that does not see the sweep's folder."""

import io
import stat
import zipfile
from pathlib import Path, PurePosixPath

MOST_BYTES = 2**30  # of a job's folder that is shipped, before and after compression


def pack(folder: Path) -> bytes:
    """A folder's files as a zip.

    Raises:
        ValueError: they take more than MOST_BYTES.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        raise ValueError(
            f"{folder}: {size} bytes, more than the {MOST_BYTES} that are shipped; share the sweep's folder"
        )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder).as_posix())
    return made.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Writes a zip's files under the folder.

    Raises:
        ValueError: a name leads out of the folder, an entry is a link, or it takes more than MOST_BYTES; nothing is then written.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if (
                name.is_absolute()
                or ".." in name.parts
                or "\\" in entry.filename
                or stat.S_ISLNK(entry.external_attr >> 16)
            ):
                raise ValueError(f"{entry.filename!r} in a shipped folder: expected a file below it")
        if sum(entry.file_size for entry in entries) > MOST_BYTES:
            raise ValueError(f"a shipped folder of more than {MOST_BYTES} bytes; share the sweep's folder")
        folder.mkdir(parents=True, exist_ok=True)
        archive.extractall(folder)
