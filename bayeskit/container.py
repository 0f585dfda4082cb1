"""Files that can be opened without trusting them: the ``.bkit`` container.

A container is a zip file of plain numbers and plain text: one ``manifest.json`` and one
raw ``.npy`` entry for each array (``arrays/0000.npy``, ``arrays/0001.npy``, ...). Any zip
tool and ``numpy.load`` can read what is inside. Nothing is ever pickled, imported or
evaluated, so the worst that a file from a stranger can do is to be refused.

The manifest is one JSON object:

- ``format`` (``"bayeskit"``) and ``format_version``;
- ``kind``, a short name that the caller looks up in a registry of its own;
- ``parameters``, the JSON values handed to :func:`write_container`;
- ``arrays``, from the name of each array to its ``file``, ``shape``, ``dtype`` and the
  ``sha256`` of its whole entry;
- ``versions`` of the packages that wrote the file;
- ``sha256`` of the other fields, which shows an edit that was not meant. It is no
  signature: whoever forges a file can also forge its hashes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import reprlib
import secrets
import shutil
import stat
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from bayeskit.errors import CorruptFileError

__all__ = ["FORMAT_VERSION", "Container", "read_container", "unpacking", "write_container"]

FORMAT_VERSION = 1

_MANIFEST = "manifest.json"
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
# The limit that numpy.load itself puts on a header it has not been told to trust.
_MAX_NPY_HEADER = 10_000
_MAX_DEPTH = 50
# Text of 2 MiB describes about 10 000 arrays, and parsed it takes at most 50 MB: the
# densest JSON is "[],[],...", 64 bytes of Python objects for 3 bytes of text.
_MAX_MANIFEST = 2 * 2**20
_MAX_ARRAYS = 10_000
# An honest deflated array of floats shrinks by less than 10; deflate can reach 1032.
_MAX_RATIO = 200
# Reading goes in pieces of this size. It also bounds the directory of the zip, which
# zipfile reads in one piece: 10 000 arrays need at most 74 bytes each there.
_CHUNK = 2**20
_END_RECORD_SIZE = 22
# zipfile must be told beforehand which entries may need sizes of 64 bits; it means those
# from 2 GiB on, and half of that leaves room for the header.
_FORCE_ZIP64 = 2**30
# The shortest limit that Python allows for converting decimal text to int is 640 digits,
# which is 2126 bits.
_MAX_INT_BITS = 2048
_MAX_CODE_POINT = 0x10FFFF

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_DTYPE = re.compile(
    r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c8|<c16|<U[1-9][0-9]{0,8}"
    r"|<[Mm]8(\[([1-9][0-9]{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_JSON_MARK = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
_MANIFEST_FIELDS = {
    "format": str,
    "format_version": int,
    "kind": str,
    "parameters": dict,
    "arrays": dict,
    "versions": dict,
    "sha256": str,
}
_ARRAY_FIELDS = {"file": str, "shape": list, "dtype": str, "sha256": str}


class Container(NamedTuple):
    """What a container file holds.

    Attributes
    ----------
    kind : str
        Registered name of what was saved, such as ``"Posterior"``.
    parameters : dict
        JSON values: finite floats, str, int, bool, None, and lists and dicts of them.
    arrays : dict of str to array
        Writable arrays in native byte order that own their memory.
    versions : dict of str to str
        Versions of Python, NumPy and bayeskit that wrote the file.
    """

    kind: str
    parameters: dict[str, Any]
    arrays: dict[str, np.ndarray]
    versions: dict[str, str]


def write_container(
    path: str | os.PathLike[str],
    kind: str,
    parameters: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    keep_previous: bool = False,
) -> None:
    """Write a container so that the path holds the old file or the new one, never a part.

    Parameters
    ----------
    path : str or path-like
        File to create or replace; its folder must exist.
    kind : str
        Name of what is saved: a letter, then letters, digits and underscores.
    parameters : dict
        Finite floats, str, int, bool, None, and lists and dicts (with str keys) of them, at
        most 49 levels deep. Tuples are refused because they would come back as lists.
    arrays : mapping of str to array
        Any non-empty names. Booleans, integers, floats (16, 32, 64 bits), complex (64, 128
        bits), fixed-width text, datetime64 and timedelta64, of any shape.
    keep_previous : bool, default=False
        Keep the file that is replaced as ``<path>.prev``. A file that cannot be read is not
        kept, so that ``.prev`` is always the last good one.

    Raises
    ------
    TypeError
        If a parameter or the dtype of an array is none of those above.
    ValueError
        If the kind or the name of an array is not valid, if an array holds bytes that are
        no boolean or no character, if there are more than 10 000 arrays, or if the
        manifest would exceed 2 MiB.
    OSError
        If the disk is full, the folder read-only, ...; the old file is left as it was.

    Notes
    -----
    Arrays are stored uncompressed, in C order and little-endian: neither Fortran order nor
    the byte order is restored on reading. Data are on the disk before the file gets its
    name. A process that is killed can leave a file ``.bkit-*.tmp`` in the folder, which may
    be deleted. A symbolic link at ``path`` is replaced, not followed. Memory: a copy of one
    array, and of none that is little-endian and in C order. With ``keep_previous`` the old
    file is read once to check it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "fit.bkit")
    ...     write_container(path, "Posterior", {"num_chains": 4}, {"beta": np.zeros(3)})
    ...     os.listdir(folder)
    ['fit.bkit']
    """
    if not isinstance(kind, str):
        raise TypeError(f"`kind` must be a str, got {type(kind).__name__}")
    if not _KIND.fullmatch(kind):
        raise ValueError(
            f"`kind` must be a letter followed by letters, digits or _, got {kind!r}"
        )
    if type(parameters) is not dict:
        raise TypeError(f"`parameters` must be a dict, got {type(parameters).__name__}")
    # The parameters are inside of the object that is the manifest.
    _check_parameter(parameters, "parameters", depth=2)
    if len(arrays) > _MAX_ARRAYS:
        raise ValueError(
            f"`arrays` has {len(arrays)} arrays, at most {_MAX_ARRAYS} can be saved: "
            "stack them into fewer, larger ones"
        )
    place = os.path.abspath(os.fsdecode(path))
    folder, name = os.path.split(place)
    if os.path.isdir(place):
        raise IsADirectoryError(f"{place} is a folder: give the path of a file in it")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"there is no folder {folder} for the file {name!r}: make it first, or give "
            "another path"
        )
    with _replacing(path, keep_previous) as file:
        _write_zip(file, kind, parameters, arrays)


def read_container(
    path: str | os.PathLike[str],
    *,
    kinds: Collection[str] | None = None,
    max_bytes: int = 4 * 2**30,
) -> Container:
    """Read a container, or refuse it: no file can run code or be half read.

    Parameters
    ----------
    path : str or path-like
        File written by :func:`write_container`.
    kinds : collection of str, optional
        The kinds that are accepted; by default every kind.
    max_bytes : int, default=4 GiB
        Largest total size of the arrays and the manifest, uncompressed.

    Returns
    -------
    Container
        With arrays that are writable and in native byte order.

    Raises
    ------
    CorruptFileError
        If the file is no container, was changed since it was written, was written by a
        newer format, is of another kind, or is larger than allowed. The message says which.
    OSError
        If the file is missing or the disk cannot be read.

    Notes
    -----
    Time is linear in the size: every byte is hashed. Sizes that the file declares are
    believed only as far as the bytes that are there allow: memory is at most the size of
    the file (200 times that if another tool has deflated it) and 64 MB. What the parameters
    and arrays mean is not checked here.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "fit.bkit")
    ...     write_container(path, "Posterior", {"num_chains": 4}, {"beta": np.zeros(3)})
    ...     saved = read_container(path, kinds={"Posterior"})
    >>> saved.kind, saved.parameters, saved.arrays["beta"].shape
    ('Posterior', {'num_chains': 4}, (3,))
    """
    # A single str would also be a collection, of letters.
    accepted = {kinds} if isinstance(kinds, str) else kinds
    with _opened(path, max_bytes) as (archive, manifest):
        kind = manifest["kind"]
        if accepted is not None and kind not in accepted:
            _refuse(f"unknown kind {reprlib.repr(kind)}, expected one of {sorted(accepted)}")
        arrays = {
            name: _read_array(archive, name, entry)
            for name, entry in manifest["arrays"].items()
        }
    return Container(kind, manifest["parameters"], arrays, manifest["versions"])


@contextlib.contextmanager
def unpacking(kind: str) -> Iterator[None]:
    """Turn whatever fails while contents become an object into CorruptFileError.

    Hashes keep a file from damage, not from a forger, who can make them fit other contents.

    Parameters
    ----------
    kind : str
        What the container is said to hold.
    """
    try:
        yield
    except (CorruptFileError, OSError):
        raise
    except Exception as error:
        raise CorruptFileError(
            f"the file does not hold what a {kind} writes ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]:.200})"
        ) from error


def _refuse(reason: str) -> NoReturn:
    """Raise the error of a failed check."""
    raise CorruptFileError(reason)


# Writing


def _check_parameter(value: object, place: str, depth: int) -> None:
    """Raise TypeError, with the place, at the first value that JSON would not give back."""
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise TypeError(
                f"{place} is an integer of {value.bit_length()} bits; "
                f"at most {_MAX_INT_BITS} can be saved"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(
                f"{place} is {value}; only finite floats can be saved, use None or a str"
            )
    elif type(value) not in (list, dict):
        raise TypeError(
            f"{place} is a {type(value).__name__}; only float, int, str, bool, None, list "
            "and dict can be saved. Convert it, or pass it as one of the `arrays`"
        )
    elif depth > _MAX_DEPTH:
        raise TypeError(
            f"{place} is nested too deeply (or contains itself); "
            f"at most {_MAX_DEPTH - 1} levels can be saved"
        )
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_parameter(item, f"{place}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"{place} has the key {key!r} of type {type(key).__name__}; "
                    "keys must be str"
                )
            _check_parameter(item, f"{place}[{key!r}]", depth + 1)


def _portable_array(name: str, value: object) -> np.ndarray:
    """Return the array in C order and little-endian, or refuse it."""
    if not isinstance(name, str):
        raise TypeError(f"names of `arrays` must be str, got {name!r}")
    if not name:
        raise ValueError("names of `arrays` must not be empty")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"arrays[{name!r}] is a masked array; save its data and its mask as two arrays"
        )
    if not hasattr(value, "__array__"):
        raise TypeError(
            f"arrays[{name!r}] is a {type(value).__name__}; pass an array (numpy.asarray)"
        )
    array = np.asarray(value)
    dtype = array.dtype.newbyteorder("<")
    if not _DTYPE.fullmatch(dtype.str):
        raise TypeError(
            f"arrays[{name!r}] has dtype {array.dtype}, which cannot be saved; convert it "
            "to bool, an integer, a float or complex of at most 64 bits a part, text of "
            "fixed width, datetime64 or timedelta64"
        )
    array = np.asarray(array, dtype=dtype, order="C")
    fault = _find_invalid_element(array)
    if fault:
        raise ValueError(f"arrays[{name!r}] {fault}")
    return array


def _find_invalid_element(array: np.ndarray) -> str:
    """Say which bytes NumPy would not accept as an element; empty if there are none.

    Any bytes make a number, but not a boolean or a character: NumPy would raise, or count
    wrongly, much later.
    """
    if array.size == 0:
        return ""
    if array.dtype.kind == "b" and _as_bytes(array).max() > 1:
        return "has a boolean that is neither 0 nor 1"
    if array.dtype.kind == "U" and _as_bytes(array).view("<u4").max() > _MAX_CODE_POINT:
        return "has a character beyond U+10FFFF"
    return ""


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """Return the memory of an array in C order, without copying it."""
    return array.reshape(-1).view(np.uint8)


def _npy_description(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the dictionary of a ``.npy`` header, in the spelling of NumPy."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    return text.encode("ascii")


def _npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the start of a ``.npy`` file, padded so that the numbers are aligned."""
    description = _npy_description(dtype, shape)
    size = len(_NPY_MAGIC) + 2 + len(description) + 1
    # The format asks for numbers that start at a multiple of 64 bytes.
    padding = -size % 64
    length = len(description) + padding + 1
    return _NPY_MAGIC + length.to_bytes(2, "little") + description + b" " * padding + b"\n"


def _dump(value: object) -> bytes:
    """Return JSON text that is the same for the same value."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _versions() -> dict[str, str]:
    """Return the versions that are recorded in every file."""
    # Imported here because it is slow to import and reading does not need it.
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("bayeskit")
    except PackageNotFoundError:
        own = "unknown"
    return {"bayeskit": own, "numpy": np.__version__, "python": platform.python_version()}


def _write_zip(
    file: BinaryIO,
    kind: str,
    parameters: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write the arrays one after the other, then the manifest that describes them."""
    entries = {}
    # Stored, not deflated: draws hardly shrink, and an array of zeros would shrink so well
    # that reading would take it for a bomb.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, (name, value) in enumerate(arrays.items()):
            array = _portable_array(name, value)
            entry = f"arrays/{index:04d}.npy"
            digest = _write_array(archive, entry, array)
            entries[name] = {
                "file": entry,
                "shape": list(array.shape),
                "dtype": array.dtype.str,
                "sha256": digest,
            }
        manifest: dict[str, object] = {
            "format": "bayeskit",
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "parameters": parameters,
            "arrays": entries,
            "versions": _versions(),
        }
        manifest["sha256"] = hashlib.sha256(_dump(manifest)).hexdigest()
        text = _dump(manifest)
        if len(text) > _MAX_MANIFEST:
            raise ValueError(
                f"the manifest has {len(text)} bytes, at most {_MAX_MANIFEST} can be "
                "saved: pass long lists of `parameters` as arrays, and fewer, larger arrays"
            )
        archive.writestr(zipfile.ZipInfo(_MANIFEST), text)


def _write_array(archive: zipfile.ZipFile, entry: str, array: np.ndarray) -> str:
    """Write one ``.npy`` entry and return its SHA-256."""
    digest = hashlib.sha256()
    # A ZipInfo made by hand carries the date 1980: equal contents give equal files.
    large = array.nbytes >= _FORCE_ZIP64
    with archive.open(zipfile.ZipInfo(entry), "w", force_zip64=large) as stream:
        header = _npy_header(array.dtype, array.shape)
        digest.update(header)
        stream.write(header)
        memory = _as_bytes(array).data
        for start in range(0, array.nbytes, _CHUNK):
            chunk = memory[start : start + _CHUNK]
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str], keep_previous: bool) -> Iterator[BinaryIO]:
    """Open a file that takes its name only when the block has ended without an error."""
    # Absolute, so that a change of the working folder in between does no harm.
    target = os.path.abspath(os.fsdecode(path))
    folder = os.path.dirname(target)
    # A short name of its own: the name of the target can already have the longest length.
    temporary = os.path.join(folder, f".bkit-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            # A file that others may not read stays so, where files have modes at all.
            if os.path.isfile(target):
                with contextlib.suppress(PermissionError):
                    shutil.copymode(target, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and _is_readable(target):
            _keep_copy(target, f"{target}.prev", f"{temporary}.prev")
        os.replace(temporary, target)
    except BaseException:
        # What went wrong first is what the caller has to know.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _is_readable(path: str) -> bool:
    """Say whether a file is a container without any damage, one array at a time."""
    try:
        with _opened(path, max_bytes=math.inf) as (archive, manifest):
            for name, entry in manifest["arrays"].items():
                _read_array(archive, name, entry)
    except (OSError, CorruptFileError):
        return False
    return True


def _keep_copy(source: str, target: str, temporary: str) -> None:
    """Give a file a second name, so that there is no moment without the first."""
    try:
        try:
            os.link(source, temporary)
        except OSError:
            # Some file systems have no hard links.
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    finally:
        # Renaming one link of a file to another link of it does nothing and leaves both.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _sync_folder(folder: str) -> None:
    """Make the renaming itself survive a loss of power."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # The new file is complete and in place. That a file system cannot sync folders, or
        # that this one may be written to and not listed, makes no failure of it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


# Reading


class _BoundedFile:
    """A file of which zipfile can read little at once, and nothing outside of it.

    Offsets and sizes in a damaged zip file are arbitrary numbers, which zipfile hands to
    ``seek`` and ``read``.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        if not 0 <= base + offset <= self._size:
            _refuse("the zip file points to a place outside of the file")
        return self._file.seek(base + offset)

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        size = left if size < 0 else min(size, left)
        if size > _CHUNK:
            _refuse(f"the directory of the zip file is larger than {_CHUNK} bytes")
        return self._file.read(size)


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike[str], max_bytes: float
) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """Open a container with entries and a manifest that passed all checks.

    Whatever is wrong with the bytes, here and in the block, ends as CorruptFileError.
    """
    name = os.fsdecode(path)
    # Asked before opening: to open a pipe would wait for somebody to write to it.
    status = os.stat(path)
    try:
        if not stat.S_ISREG(status.st_mode):
            _refuse("it is not a regular file")
        with open(path, "rb") as file:
            # Of the file that is open now, which may have been replaced since.
            size = os.fstat(file.fileno()).st_size
            _check_end(file, size)
            with zipfile.ZipFile(_BoundedFile(file, size)) as archive:
                _check_entries(archive.infolist(), size, max_bytes)
                manifest = _read_manifest(archive)
                yield archive, manifest
    except CorruptFileError as error:
        raise CorruptFileError(f"cannot read {name}: {error}") from error.__cause__
    except (OSError, MemoryError):
        # The disk or the machine, not the bytes.
        raise
    except Exception as error:
        # zipfile has no single error for damage: besides BadZipFile it lets out
        # struct.error, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ...
        raise CorruptFileError(
            f"cannot read {name}: the zip file is damaged ({type(error).__name__}: {error})"
        ) from error


def _check_end(file: BinaryIO, size: int) -> None:
    """Check that the file ends as zip files do, without a comment after the end.

    zipfile would search for the end and ignore what follows it.
    """
    file.seek(max(size - _END_RECORD_SIZE, 0))
    end = file.read(_END_RECORD_SIZE)
    if len(end) < _END_RECORD_SIZE or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        _refuse("it is not a zip file, or it was cut short or something was appended")


def _check_entries(infos: list[zipfile.ZipInfo], size: int, max_bytes: float) -> None:
    """Check the names and the sizes of all zip entries before any is read."""
    for info in infos:
        fault = _find_entry_fault(info)
        if fault:
            _refuse(f"zip entry {reprlib.repr(info.orig_filename)} {fault}")
    names = {info.filename for info in infos}
    if len(names) < len(infos):
        _refuse("two zip entries have the same name")
    if _MANIFEST not in names:
        _refuse(f"it has no {_MANIFEST}, so it is a zip file but not a container")
    if min(info.header_offset for info in infos) != 0:
        _refuse("there are bytes before the first zip entry")
    if sum(info.compress_size for info in infos) > size:
        _refuse("its zip entries overlap")
    total = sum(info.file_size for info in infos)
    if total > max_bytes:
        _refuse(
            f"it declares {total} bytes, more than the limit of {max_bytes}; "
            "pass a larger `max_bytes` if you trust the file"
        )


def _find_entry_fault(info: zipfile.ZipInfo) -> str:
    """Say what makes a zip entry unlike those that are written here; empty if nothing."""
    name = info.orig_filename
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "leaves the folder with '..'"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    # zipfile cuts names at a zero byte, so that two names could become one.
    if name != info.filename or not re.fullmatch(r"manifest\.json|arrays/[0-9]+\.npy", name):
        return "is not part of a container"
    # Bit 0: encrypted; bit 6: strongly encrypted; bit 13: encrypted directory.
    if info.flag_bits & 0x2041:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {info.compress_type}, only deflate can be read"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "is stored with two different sizes"
    if info.file_size > _MAX_RATIO * info.compress_size:
        return f"would expand more than {_MAX_RATIO} times: it may be a zip bomb"
    return ""


def _read_manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the manifest, every field checked, ``shape`` and ``dtype`` converted."""
    info = archive.getinfo(_MANIFEST)
    if info.file_size > _MAX_MANIFEST:
        _refuse(f"the manifest has {info.file_size} bytes, more than {_MAX_MANIFEST}")
    text = b""
    with archive.open(info) as stream:
        while chunk := stream.read(_CHUNK):
            text += chunk
    manifest = _parse_json(text)
    if not isinstance(manifest, dict) or manifest.get("format") != "bayeskit":
        _refuse("the manifest is not that of a container")
    # First of all: a newer format may have other fields and other hashes.
    version = manifest.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        _refuse(
            f"it has format version {version}, this bayeskit reads up to {FORMAT_VERSION}; "
            "upgrade bayeskit"
        )
    _check_fields(manifest, _MANIFEST_FIELDS, "the manifest")
    version = manifest["format_version"]
    if version < 1:
        _refuse(f"format version {version} does not exist")
    if not _KIND.fullmatch(manifest["kind"]):
        _refuse(f"unknown kind {reprlib.repr(manifest['kind'])}")
    if not all(isinstance(value, str) for value in manifest["versions"].values()):
        _refuse("the versions in the manifest must be text")
    digest = manifest.pop("sha256")
    if hashlib.sha256(_dump(manifest)).hexdigest() != digest:
        _refuse("the manifest does not match its own hash: it was changed after writing")
    for name, entry in manifest["arrays"].items():
        _check_array_entry(name, entry)
    files = [entry["file"] for entry in manifest["arrays"].values()]
    if sorted([_MANIFEST, *files]) != sorted(archive.namelist()):
        _refuse("the zip entries are not those that the manifest lists")
    return manifest


def _parse_json(text: bytes) -> object:
    """Parse JSON strictly: unique keys, finite numbers, bounded depth."""
    try:
        decoded = text.decode("utf-8")
        if _json_depth(decoded) > _MAX_DEPTH:
            _refuse(f"the JSON of the manifest is more than {_MAX_DEPTH} levels deep")
        return json.loads(
            decoded,
            object_pairs_hook=_unique_keys,
            parse_constant=lambda name: _refuse(f"the manifest contains {name}"),
            parse_float=_finite_float,
        )
    except CorruptFileError:
        raise
    except ValueError as error:
        raise CorruptFileError(f"the manifest is not valid JSON: {error}") from error


def _json_depth(text: str) -> int:
    """Return how deep brackets are nested, before anything recursive sees the text."""
    depth = deepest = 0
    in_string = False
    for match in _JSON_MARK.finditer(text):
        mark = match.group()
        if mark == '"':
            in_string = not in_string
        elif in_string:
            continue
        elif mark in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in ("]", "}"):
            depth -= 1
    return deepest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; with a repeated key, two readers could see different files."""
    result = dict(pairs)
    if len(result) < len(pairs):
        _refuse("the manifest has an object with two equal keys")
    return result


def _finite_float(text: str) -> float:
    """Parse a JSON number, which may be too large for a float."""
    value = float(text)
    if not math.isfinite(value):
        _refuse("the manifest contains a number that is too large")
    return value


def _check_fields(value: object, fields: Mapping[str, type], place: str) -> None:
    """Check that an object has exactly these fields with exactly these types."""
    if not isinstance(value, dict) or set(value) != set(fields):
        _refuse(f"{place} must have the fields {sorted(fields)}")
    for field, kind in fields.items():
        # Not isinstance: True would pass for the integer 1.
        if type(value[field]) is not kind:
            _refuse(f"{field!r} of {place} must be of type {kind.__name__}")


def _check_array_entry(name: str, entry: dict[str, Any]) -> None:
    """Check what the manifest says of one array, and convert its shape and dtype."""
    place = f"array {reprlib.repr(name)}"
    if not name:
        _refuse("the manifest has an array without a name")
    _check_fields(entry, _ARRAY_FIELDS, place)
    dtype = None
    if _DTYPE.fullmatch(entry["dtype"]):
        # The pattern lets a width pass that is too large for NumPy.
        with contextlib.suppress(TypeError, ValueError):
            dtype = np.dtype(entry["dtype"])
    if dtype is None or dtype.str != entry["dtype"]:
        _refuse(f"{place} has dtype {reprlib.repr(entry['dtype'])}, which is not allowed")
    shape = entry["shape"]
    if not all(type(length) is int and length >= 0 for length in shape):
        _refuse(f"{place} has a shape that is not a list of lengths >= 0")
    # As NumPy counts: an empty array may not have huge other dimensions either.
    if math.prod(max(length, 1) for length in shape) * dtype.itemsize >= 2**63:
        _refuse(f"{place} has dimensions that are too large for any array")
    entry["dtype"] = dtype
    entry["shape"] = tuple(shape)


def _read_array(archive: zipfile.ZipFile, name: str, entry: dict[str, Any]) -> np.ndarray:
    """Return one array, after comparing header, size and hash with the manifest."""
    place = f"array {reprlib.repr(name)}"
    dtype, shape = entry["dtype"], entry["shape"]
    needed = math.prod(shape) * dtype.itemsize
    info = archive.getinfo(entry["file"])
    with archive.open(info) as stream:
        start = stream.read(len(_NPY_MAGIC) + 2)
        if start[: len(_NPY_MAGIC)] != _NPY_MAGIC:
            _refuse(f"{place} is not a .npy file of version 1.0")
        length = int.from_bytes(start[len(_NPY_MAGIC) :], "little")
        if length > _MAX_NPY_HEADER:
            _refuse(f"{place} has a header of {length} bytes, more than {_MAX_NPY_HEADER}")
        header = stream.read(length)
        # Compared, never parsed: nothing from the file is evaluated. Padding may differ.
        if header.rstrip(b" \n") != _npy_description(dtype, shape):
            _refuse(f"{place} has a header that does not match the manifest")
        present = info.file_size - len(start) - length
        if present != needed:
            _refuse(f"{place} has {present} bytes, its shape and dtype need {needed}")
        digest = hashlib.sha256(start + header)
        # The zip entry was checked to declare no more than the bytes in the file can give.
        array = np.empty(shape, dtype)
        memory = _as_bytes(array).data
        filled = 0
        while filled < needed:
            chunk = stream.read(min(_CHUNK, needed - filled))
            if not chunk:
                _refuse(f"{place} ends after {filled} of {needed} bytes")
            memory[filled : filled + len(chunk)] = chunk
            digest.update(chunk)
            filled += len(chunk)
    if digest.hexdigest() != entry["sha256"]:
        _refuse(f"{place} does not match its hash: it was changed after writing")
    fault = _find_invalid_element(array)
    if fault:
        _refuse(f"{place} {fault}")
    return array.astype(dtype.newbyteorder("="), copy=False)
