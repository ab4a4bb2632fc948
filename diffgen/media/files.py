"""New files that are either whole or not there, and names for them.

Everything diffgen writes for a person goes through `new_file`: into a temporary name in the same folder,
flushed to the disk, then given its name in one step. A crash, a full disk or Ctrl-C leaves nothing behind
under the name, and two processes that choose the same name cannot overwrite each other.
"""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diffgen.errors import DiffgenError, UsageError

_CAUSES = {
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "that disk is read-only",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EISDIR: "that is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for that disk",
}
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class FileTaken(UsageError):
    """The name is in use and overwriting was not asked for. A caller may try the next free name."""

    def __init__(self, path: Path):
        super().__init__(f"{path} exists already; nothing was written. Choose another name, or use --force")


@contextmanager
def new_file(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """An open binary file that becomes `path` when the block ends, and vanishes when the block fails.

    Missing parent folders are created. The file's own `.name` is the temporary path, with the right
    extension, for encoders that open files by name. Raises FileTaken, UsageError for a path that cannot be
    written, DiffgenError for a full disk; an error of the block itself that is no OSError passes unchanged.
    """
    path, temporary = _paths(path)
    try:
        _make_folder(path)
        _refuse_taken(path, overwrite)
        # "x" and not tempfile: the file gets the permissions that any new file of this user gets.
        file = open(temporary, "xb")  # noqa: SIM115 - closed below, before the rename that Windows wants so
        with _removed(temporary):
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _publish(temporary, path, overwrite)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def new_folder(path: str | Path, *, ours: Callable[[str], bool], overwrite: bool = False) -> Iterator[Path]:
    """A new folder that becomes `path` when the block ends, and vanishes with its files when the block fails.

    `ours` says of a file name whether this kind of folder holds such files. An empty folder at `path` is taken
    over. One with files is replaced only with `overwrite`, and only where all of them are `ours`. Raises as
    `new_file` does.
    """
    path, temporary = _paths(path)
    try:
        _make_folder(path)
        _refuse_files(path, ours, overwrite)
        temporary.mkdir()
        try:
            yield temporary
            _refuse_files(path, ours, overwrite)
            if path.is_dir():
                shutil.rmtree(path)
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: str | Path, *, overwrite: bool = False) -> None:
    """Fails now as `new_file` would fail later: to be called before minutes are spent on a picture.

    Creates missing parent folders, writes one byte to a temporary file there and removes it.
    """
    path, temporary = _paths(path)
    try:
        _make_folder(path)
        _refuse_taken(path, overwrite)
        file = open(temporary, "xb")  # noqa: SIM115 - closed below
        with _removed(temporary), file:
            file.write(b"\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Path, error: OSError) -> DiffgenError:
    """One sentence for a failed write: DiffgenError when the machine is at fault, else UsageError."""
    cause = _CAUSES.get(error.errno or 0) or error.strerror or str(error)
    kind = DiffgenError if error.errno in _MACHINE else UsageError
    return kind(f"cannot write {path}: {cause}")


def next_free_path(folder: str | Path, stem: str, extension: str) -> Path:
    """folder/stem.ext, or the first free of stem-2.ext, stem-3.ext ... The extension's dot is optional.

    Another process may take the name before it is written; `new_file` then raises FileTaken.
    """
    extension = extension if extension.startswith(".") or not extension else f".{extension}"
    path, number = Path(folder) / f"{stem}{extension}", 2
    while os.path.lexists(path):
        path, number = Path(folder) / f"{stem}-{number}{extension}", number + 1
    return path


def readable_name(prompt: str, seed: int | None = None, *, limit: int = 60) -> str:
    """A file stem from a prompt: "3d-emoji-of-a-red-apple-7". Letters of any script are kept.

    At most `limit` characters and 180 bytes of UTF-8 come from the prompt, cut between words where that
    is possible. File systems allow 255 bytes in a name.
    """
    text = unicodedata.normalize("NFKC", prompt[: 20 * limit]).lower()
    # Combining marks belong to their letter; without them Hindi or Thai falls apart.
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    stem, space = "", ""
    for word in kept.split():
        longer = stem + space + word
        if len(longer) > limit or len(longer.encode()) > 180:
            break
        stem, space = longer, "-"
    if not stem:
        words = kept.split()
        stem = words[0][:limit].encode()[:180].decode("utf-8", "ignore") if words else "picture"
    return stem if seed is None else f"{stem}-{seed}"


def _paths(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    if not path.name or path.name == "..":
        raise UsageError(f"cannot write {path}: that is a folder")
    return path, path.with_name(f".diffgen-{os.urandom(6).hex()}.part{path.suffix[:16]}")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # mkdir says "exists" where a file stands in the folder's place.
        raise NotADirectoryError(errno.ENOTDIR, "", str(path.parent)) from error


def _refuse_taken(path: Path, overwrite: bool) -> None:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "", str(path))
    if not overwrite:
        raise FileTaken(path)


def _refuse_files(path: Path, ours: Callable[[str], bool], overwrite: bool) -> None:
    """Refuses a folder whose files must not be replaced, and anything that is no folder."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise FileTaken(path)
    names = os.listdir(path)
    if names and not overwrite:
        raise FileTaken(path)
    strange = sorted(name for name in names if not ours(name))
    if strange:
        raise UsageError(f"the folder {path} holds other files, such as {strange[0]}; choose an empty or a new one")


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        # Unlike a rename, a link fails when the name was taken meanwhile.
        os.link(temporary, path)
    except FileExistsError as error:
        raise FileTaken(path) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_and_replace(temporary, path)


def _claim_and_replace(temporary: Path, path: Path) -> None:
    """For file systems without links (FAT, some network folders): an empty file holds the name meanwhile."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as error:
        raise FileTaken(path) from error
    try:
        os.replace(temporary, path)
    except BaseException:
        _remove(path)
        raise


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Removes a temporary file when the block ends, however it ends."""
    try:
        yield
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    # A temporary file that cannot be removed is no reason to hide the error that led here.
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        import warnings

        warnings.warn(f"a temporary file was left at {path}: {error.strerror}", stacklevel=2)
