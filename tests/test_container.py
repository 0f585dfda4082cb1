"""Tests of the container file: round trips, atomic writes, and refusing everything else."""

import errno
import hashlib
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bayeskit import container
from bayeskit.container import FORMAT_VERSION, Container, read_container, write_container
from bayeskit.errors import CorruptFileError
from tests.mutated_files import MUTATIONS, forge_manifest, pack, seal, unpack

PARAMETERS = {
    "prior": {"scale": 0.618034, "family": "normal"},
    "seeds": [0, -1, 2**128],
    "tiny": 5e-324,
    "flag": True,
    "none": None,
    "text": 'quote " backslash \\ [{ \u03b2 \ud800',
}


def example_arrays():
    return {
        "posterior/beta": np.arange(12.0).reshape(3, 4),
        "flags": np.array([True, False]),
        "ids": np.array(["u1", "\u03b2\U0001f600"]),
        "when": np.array(["2020-01-01", "NaT"], dtype="datetime64[D]"),
        "": np.array(7, dtype=np.int16),
    }


def write_example(path, **kwargs):
    arrays = example_arrays()
    arrays["scalar"] = arrays.pop("")
    write_container(path, "Posterior", PARAMETERS, arrays, **kwargs)
    return path


def fingerprint(loaded):
    """Text that is equal only for identical containers, with types and order."""
    arrays = [
        (name, array.dtype.str, array.shape, array.tobytes().hex())
        for name, array in loaded.arrays.items()
    ]
    return json.dumps([loaded.kind, loaded.parameters, arrays, loaded.versions])


def assert_same_array(left, right):
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


# Building files that write_container would not build


def forge(path, change, entry_changes=None):
    """Change the manifest, and bytes of entries, and make all of the hashes fit again."""
    entries = dict(unpack(path))
    manifest = json.loads(entries.pop("manifest.json"))
    entries.update(entry_changes or {})
    for entry in manifest["arrays"].values():
        entry["sha256"] = hashlib.sha256(entries[entry["file"]]).hexdigest()
    change(manifest)
    entries["manifest.json"] = seal(manifest)
    return pack(path, entries.items())


def npy(array, **kwargs):
    stream = io.BytesIO()
    np.save(stream, array, **kwargs)
    return stream.getvalue()


def one_array(tmp_path, array):
    path = tmp_path / "one.bkit"
    write_container(path, "Draws", {}, {"x": array})
    return path


# Round trips


def test_round_trip_of_everything(tmp_path):
    loaded = read_container(write_example(tmp_path / "a.bkit"), kinds=["Posterior"])
    assert isinstance(loaded, Container)
    assert loaded.kind == "Posterior"
    assert loaded.parameters == PARAMETERS
    assert list(loaded.parameters) == list(PARAMETERS)
    assert type(loaded.parameters["flag"]) is bool
    expected = example_arrays()
    expected["scalar"] = expected.pop("")
    assert list(loaded.arrays) == list(expected)
    for name, array in expected.items():
        assert_same_array(loaded.arrays[name], array)
    assert set(loaded.versions) == {"bayeskit", "numpy", "python"}
    assert loaded.versions["numpy"] == np.__version__


@pytest.mark.parametrize(
    "dtype",
    [
        "?",
        *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
        *("f2", "f4", "f8", "c8", "c16"),
        *("U1", "U13", "M8", "M8[ns]", "M8[25s]", "m8[us]", "m8[Y]"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 1)])
def test_round_trip_of_each_dtype_shape_and_byte_order(tmp_path, dtype, order, shape):
    dtype = np.dtype(dtype).newbyteorder(order)
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = values.astype("i8").astype(dtype)
    loaded = read_container(one_array(tmp_path, array)).arrays["x"]
    assert_same_array(loaded, array.astype(dtype.newbyteorder("=")))
    assert loaded.dtype.isnative
    assert loaded.flags.writeable and loaded.flags.owndata


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    array=hnp.arrays(
        dtype=st.one_of(
            hnp.boolean_dtypes(),
            hnp.integer_dtypes(endianness="?"),
            hnp.unsigned_integer_dtypes(endianness="?"),
            hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
            hnp.complex_number_dtypes(sizes=(64, 128), endianness="?"),
            hnp.unicode_string_dtypes(endianness="?"),
            hnp.datetime64_dtypes(endianness="?"),
            hnp.timedelta64_dtypes(endianness="?"),
        ),
        shape=hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    name=st.text(min_size=1),
    parameters=st.dictionaries(
        st.text(),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**2000), 2**2000)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    ),
)
def test_round_trip_of_random_contents(tmp_path, array, name, parameters):
    path = tmp_path / "random.bkit"
    write_container(path, "Draws", parameters, {name: array})
    loaded = read_container(path)
    # repr tells 1 from 1.0 and True, and 0.0 from -0.0; == does not.
    assert repr(loaded.parameters) == repr(parameters)
    assert list(loaded.arrays) == [name]
    assert_same_array(loaded.arrays[name], array.astype(array.dtype.newbyteorder("=")))


def test_special_numbers_keep_their_bits(tmp_path):
    array = np.array([np.nan, -np.nan, np.inf, -0.0, 5e-324])
    array.view(np.uint64)[0] ^= 0xABC  # the payload of a nan
    assert_same_array(read_container(one_array(tmp_path, array)).arrays["x"], array)


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda a: a[::-2, 1:],
        lambda a: a.T,
        lambda a: a.view(type("Sub", (np.ndarray,), {})),
    ],
)
def test_layouts_become_c_order_and_inputs_stay(tmp_path, view):
    base = np.arange(20.0).reshape(4, 5)
    array = view(base)
    array.flags.writeable = False
    loaded = read_container(one_array(tmp_path, array)).arrays["x"]
    assert type(loaded) is np.ndarray
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, array)
    np.testing.assert_array_equal(base, np.arange(20.0).reshape(4, 5))


def test_memory_mapped_input(tmp_path):
    mapped = np.memmap(tmp_path / "raw", dtype="f4", shape=(10,), mode="w+")
    mapped[:] = np.arange(10)
    loaded = read_container(one_array(tmp_path, mapped)).arrays["x"]
    np.testing.assert_array_equal(loaded, np.arange(10, dtype="f4"))


def test_array_longer_than_a_chunk_and_many_arrays(tmp_path):
    path = tmp_path / "big.bkit"
    arrays = {f"chain/{i}": np.full(3, i) for i in range(1200)}
    arrays["long"] = np.random.default_rng(0).normal(size=300_001)
    write_container(path, "Draws", {}, arrays)
    loaded = read_container(path).arrays
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert_same_array(loaded[name], array)


def test_no_arrays_and_no_parameters(tmp_path):
    write_container(tmp_path / "e.bkit", "Empty", {}, {})
    loaded = read_container(tmp_path / "e.bkit")
    assert (loaded.parameters, loaded.arrays) == ({}, {})


def test_equal_contents_give_equal_files(tmp_path):
    first = write_example(tmp_path / "a.bkit").read_bytes()
    assert first == write_example(tmp_path / "b.bkit").read_bytes()


def test_numpy_alone_reads_the_entries(tmp_path):
    entries = dict(unpack(write_example(tmp_path / "a.bkit")))
    array = np.load(io.BytesIO(entries["arrays/0000.npy"]), allow_pickle=False)
    np.testing.assert_array_equal(array, np.arange(12.0).reshape(3, 4))
    assert entries["arrays/0000.npy"] == npy(np.arange(12.0).reshape(3, 4))


def test_file_deflated_by_another_tool_is_read(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    before = fingerprint(read_container(path))
    pack(path, unpack(path), zipfile.ZIP_DEFLATED)
    assert fingerprint(read_container(path)) == before


def test_entries_with_64_bit_sizes_are_read(tmp_path, monkeypatch):
    before = fingerprint(read_container(write_example(tmp_path / "a.bkit")))
    # The format of files beyond 2 GiB, without writing 2 GiB.
    monkeypatch.setattr(container, "_FORCE_ZIP64", 0)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = write_example(tmp_path / "b.bkit")
    monkeypatch.undo()
    assert b"PK\x06\x06" in path.read_bytes()
    assert fingerprint(read_container(path)) == before


def test_round_trip_in_a_new_process(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    code = (
        "import sys, json\n"
        "from bayeskit.container import read_container\n"
        "c = read_container(sys.argv[1])\n"
        "arrays = [(name, array.dtype.str, array.shape, array.tobytes().hex())\n"
        "          for name, array in c.arrays.items()]\n"
        "print(json.dumps([c.kind, c.parameters, arrays, c.versions]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == fingerprint(read_container(path))


# What writing refuses


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


CYCLE = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"a": [{}, {"b": (1, 2)}]}, r"parameters\['a'\]\[1\]\['b'\] is a tuple"),
        ({"a": float("nan")}, r"parameters\['a'\] is nan"),
        ({"a": [0.0, -float("inf")]}, r"parameters\['a'\]\[1\] is -inf"),
        ({"a": {1: 2}}, r"parameters\['a'\] has the key 1 of type int"),
        ({"a": np.int64(1)}, r"parameters\['a'\] is a int64"),
        ({"a": np.zeros(2)}, r"parameters\['a'\] is a ndarray"),
        ({"a": b"x"}, r"parameters\['a'\] is a bytes"),
        ({"a": {1, 2}}, r"parameters\['a'\] is a set"),
        ({"a": 2**2048}, r"parameters\['a'\] is an integer of 2049 bits"),
        ({"a": nested(49)}, r"nested too deeply .* at most 49 levels"),
        ({"a": CYCLE}, "nested too deeply"),
        ([1], "`parameters` must be a dict, got list"),
    ],
)
def test_parameters_that_are_not_json(tmp_path, parameters, place):
    with pytest.raises(TypeError, match=place):
        write_container(tmp_path / "a.bkit", "Fit", parameters, {})
    assert list(tmp_path.iterdir()) == []


def test_deepest_parameters_and_floats_of_numpy(tmp_path):
    path = tmp_path / "a.bkit"
    parameters = {"a": nested(48), "b": np.float64(0.1)}
    write_container(path, "Fit", parameters, {})
    loaded = read_container(path).parameters
    assert loaded == {"a": nested(48), "b": 0.1}
    assert type(loaded["b"]) is float


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([None, 1]), "has dtype object"),
        (np.zeros(2, dtype="f4,i2"), "which cannot be saved"),
        (np.zeros(2, dtype="S3"), "has dtype |S3"),
        (np.zeros(2, dtype="V4"), "which cannot be saved"),
        (np.zeros(2, dtype=np.longdouble), "has dtype"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "is a masked array"),
        ([1.0, 2.0], "is a list; pass an array"),
        (None, "is a NoneType"),
    ],
)
def test_arrays_that_cannot_be_saved(tmp_path, array, message):
    if getattr(array, "dtype", None) == np.longdouble and np.longdouble == np.float64:
        pytest.skip("long double is double here")
    with pytest.raises(TypeError, match=r"arrays\['x'\].*" + message.replace("|", r"\|")):
        one_array(tmp_path, array)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([2], dtype=np.uint8).view(bool), "neither 0 nor 1"),
        (np.array([0x110000], dtype=np.uint32).view("U1"), "beyond U\\+10FFFF"),
    ],
)
def test_bytes_that_are_no_elements(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        one_array(tmp_path, array)


@pytest.mark.parametrize("kind", ["", "1a", "a b", "a.b", "os\n", "\u03b2", "a/../b"])
def test_names_that_are_no_kinds(tmp_path, kind):
    with pytest.raises(ValueError, match="`kind` must be a letter"):
        write_container(tmp_path / "a.bkit", kind, {}, {})


def test_other_arguments_of_a_wrong_type(tmp_path):
    path = tmp_path / "a.bkit"
    with pytest.raises(TypeError, match="`kind` must be a str"):
        write_container(path, 3, {}, {})
    with pytest.raises(TypeError, match="names of `arrays` must be str, got 3"):
        write_container(path, "A", {}, {3: np.zeros(1)})
    with pytest.raises(ValueError, match="names of `arrays` must not be empty"):
        write_container(path, "A", {}, {"": np.zeros(1)})
    with pytest.raises(ValueError, match=r"manifest has .* bytes, at most"):
        write_container(path, "A", {"text": "x" * 2**21}, {})
    with pytest.raises(ValueError, match="`arrays` has 10001 arrays, at most 10000"):
        write_container(path, "A", {}, dict.fromkeys(map(str, range(10_001)), np.zeros(1)))
    with pytest.raises(FileNotFoundError):
        write_container(tmp_path / "missing" / "a.bkit", "A", {}, {})
    assert list(tmp_path.iterdir()) == []


# Atomic writing


def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("keep_previous", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(os, "fsync"), (os, "replace"), (zipfile.ZipFile, "writestr"), (zipfile, "crc32")],
)
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, owner, name, keep_previous):
    path = write_example(tmp_path / "a.bkit")
    before = path.read_bytes()
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match="No space left"):
        write_container(path, "Fit", {}, {"x": np.ones(3)}, keep_previous=keep_previous)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bkit"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, TypeError])
def test_interruption_midway_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = write_example(tmp_path / "a.bkit")
    before = path.read_bytes()
    write_array = container._write_array

    def write_first_only(archive, entry, array):
        if entry != "arrays/0000.npy":
            raise error
        return write_array(archive, entry, array)

    monkeypatch.setattr(container, "_write_array", write_first_only)
    with pytest.raises(error):
        write_example(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bkit"]


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_real_failure_of_the_disk_leaves_the_old_file(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    before = path.read_bytes()
    code = (
        "import sys, resource, numpy as np\n"
        "from bayeskit.container import write_container\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_container(sys.argv[1], 'A', {}, {'x': np.zeros(100_000)})\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bkit"]


def test_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.bkit"
    code = (
        "import sys, itertools, numpy as np\n"
        "from bayeskit.container import write_container\n"
        "for i in itertools.count():\n"
        "    x = {'x': np.full(200_000, i), 'y': np.full(3, i)}\n"
        "    write_container(sys.argv[1], 'A', {'i': i}, x, keep_previous=True)\n"
        "    print(i, flush=True)\n"
    )
    random_delay = random.Random(1)
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        for _ in range(2):
            writer.stdout.readline()
        time.sleep(random_delay.uniform(0, 0.03))
        writer.kill()
        writer.communicate()
        for survivor in (path, tmp_path / "a.bkit.prev"):
            loaded = read_container(survivor)
            assert (loaded.arrays["x"] == loaded.parameters["i"]).all()
            assert (loaded.arrays["y"] == loaded.parameters["i"]).all()


def test_data_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def record(*args, name=name, original=original):
            events.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, record)
    write_example(tmp_path / "a.bkit")
    expected = ["fsync", "replace"] + ["fsync"] * (os.name == "posix")
    assert events == expected


def fail_to_sync_folder(monkeypatch, code):
    original = os.fsync
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(code, os.strerror(code))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(os.name != "posix", reason="syncs folders")
def test_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    path = tmp_path / "a.bkit"
    fail_to_sync_folder(monkeypatch, errno.EINVAL)
    read_container(write_example(path))
    monkeypatch.undo()
    fail_to_sync_folder(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_example(path)
    read_container(path)


def number(path):
    return read_container(path).parameters["i"]


@pytest.mark.parametrize("links", [True, False])
def test_keep_previous(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", fail)
    path, previous = tmp_path / "a.bkit", tmp_path / "a.bkit.prev"
    for i in range(3):
        write_container(path, "A", {"i": i}, {}, keep_previous=True)
        assert number(path) == i
        assert previous.exists() == (i > 0)
        if i:
            assert number(previous) == i - 1
    write_container(path, "A", {"i": 3}, {})
    assert (number(path), number(previous)) == (3, 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.bkit", "a.bkit.prev"]


def test_keep_previous_after_a_stop_between_the_two_renamings(tmp_path):
    path, previous = tmp_path / "a.bkit", tmp_path / "a.bkit.prev"
    write_container(path, "A", {"i": 0}, {})
    os.link(path, previous)
    write_container(path, "A", {"i": 1}, {}, keep_previous=True)
    assert (number(path), number(previous)) == (1, 0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.bkit", "a.bkit.prev"]


def test_keep_previous_does_not_keep_a_damaged_file(tmp_path):
    path, previous = tmp_path / "a.bkit", tmp_path / "a.bkit.prev"
    for i in range(2):
        write_container(path, "A", {"i": i}, {"x": np.zeros(9)}, keep_previous=True)
    content = bytearray(path.read_bytes())
    content[140] ^= 1
    path.write_bytes(content)
    write_container(path, "A", {"i": 2}, {}, keep_previous=True)
    assert (number(path), number(previous)) == (2, 0)


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_permissions(tmp_path):
    path = tmp_path / "a.bkit"
    mask = os.umask(0o027)
    try:
        write_example(path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    write_example(path)
    assert path.stat().st_mode & 0o777 == 0o600


# What reading refuses


def refused(path, match, **kwargs):
    folder = sorted(path.parent.iterdir())
    with pytest.raises(CorruptFileError, match=match) as caught:
        read_container(path, **kwargs)
    assert str(path) in str(caught.value)
    assert sorted(path.parent.iterdir()) == folder


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_container(tmp_path / "missing.bkit")
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(folder, "not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"not a zip file" * 9, pickle.dumps([1, 2]), npy(np.zeros(9))],
)
def test_file_that_is_no_zip(tmp_path, content):
    path = tmp_path / "a.bkit"
    path.write_bytes(content)
    refused(path, "not a zip file")


def test_zip_files_that_are_no_containers(tmp_path):
    refused(pack(tmp_path / "empty", []), "outside of the file")
    refused(pack(tmp_path / "arrays", [("arrays/0000.npy", b"")]), "no manifest.json")
    refused(pack(tmp_path / "other", [("a.txt", b"")]), "'a.txt' is not part of")
    refused(pack(tmp_path / "list", [("manifest.json", b"[]")]), "not that of a container")
    refused(pack(tmp_path / "object", [("manifest.json", b"{}")]), "not that of a container")
    np.savez(tmp_path / "b.npz", x=np.zeros(2))
    refused(tmp_path / "b.npz", "is not part of a container")


def test_garbage_before_and_after(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    content = path.read_bytes()
    other = tmp_path / "other.bkit"
    other.write_bytes(b"garbage" + content)
    refused(other, "bytes before the first zip entry")
    other.write_bytes(content + content)
    refused(other, "bytes before the first zip entry")
    other.write_bytes(content + b"\0")
    refused(other, "something was appended")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment"
    refused(path, "something was appended")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "absolute path"),
        ("C:\\x.npy", "absolute path"),
        ("../x.npy", "leaves the folder"),
        ("arrays/../../x.npy", "leaves the folder"),
        ("arrays\\..\\x.npy", "leaves the folder"),
        ("arrays/", "not part of a container"),
        ("extra.txt", "not part of a container"),
        ("arrays/0.pkl", "not part of a container"),
        ("manifest.json\0.npy", "not part of a container"),
        ("arrays/9999.npy", "not those that the manifest lists"),
        ("arrays/\u0660.npy", "not part of a container"),
        ("arrays/0000.npy", "same name"),
        ("manifest.json", "same name"),
    ],
)
def test_entries_that_do_not_belong(tmp_path, name, message):
    path = write_example(tmp_path / "a.bkit")
    stand_in = "arrays/zz" + "z" * max(len(name.encode()) - 9, 0)
    pack(path, [*unpack(path), (stand_in, b"x")])
    # ZipInfo would tidy the name up, so it is put into the bytes.
    raw = path.read_bytes()
    padded = name.encode()
    if len(padded) == len(stand_in) and "\0" in name:
        path.write_bytes(raw.replace(stand_in.encode(), padded))
    else:
        info = zipfile.ZipInfo(stand_in)
        info.filename = name
        pack(path, [*unpack(path)[:-1], (info, b"x")])
    refused(path, message)


def test_missing_entry(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    pack(path, unpack(path)[1:])
    refused(path, "not those that the manifest lists")


def test_link_entry(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    entries = unpack(path)
    info = zipfile.ZipInfo(entries[0][0])
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    pack(path, [(info, b"/etc/passwd"), *entries[1:]])
    refused(path, "is a link")


def patch_directory(path, entry, offset, layout, *values):
    """Overwrite a field of an entry in the directory at the end of the zip file."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    for _ in range(entry):
        start = content.index(b"PK\x01\x02", start + 4)
    struct.pack_into(layout, content, start + offset, *values)
    path.write_bytes(content)


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000, 0x2041])
def test_encrypted_entry(tmp_path, flag):
    path = write_example(tmp_path / "a.bkit")
    patch_directory(path, 1, 8, "<H", flag)
    refused(path, "is encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression(tmp_path, method):
    path = write_example(tmp_path / "a.bkit")
    pack(path, unpack(path), method)
    refused(path, "only deflate can be read")


def test_zip_bomb_by_ratio(tmp_path):
    path = one_array(tmp_path, np.zeros(2**21))
    pack(path, unpack(path), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16
    tracemalloc.start()
    refused(path, "more than 200 times: it may be a zip bomb")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_limit_on_the_total_size(tmp_path):
    path = one_array(tmp_path, np.zeros(1000))
    total = sum(len(content) for _, content in unpack(path))
    read_container(path, max_bytes=total)
    refused(path, "pass a larger `max_bytes`", max_bytes=total - 1)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (0, "damaged .*CRC"),
        (1, "damaged .*CRC"),
        (8127, "has 7999 bytes, its shape and dtype need 8000"),
        (8129, "has 8001 bytes, its shape and dtype need 8000|damaged"),
        (2**31, "overlap"),
        (2**32 - 2, "overlap"),
    ],
)
def test_sizes_that_are_lies(tmp_path, declared, message):
    # The entry has 128 + 8000 bytes. Offset 20 is the compressed, 24 the true size.
    path = one_array(tmp_path, np.zeros(1000))
    honest = path.read_bytes()
    patch_directory(path, 0, 24, "<I", declared)
    refused(path, "two different sizes")
    path.write_bytes(honest)
    patch_directory(path, 0, 20, "<II", declared, declared)
    refused(path, message)


def test_deflated_entry_that_ends_early_or_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    path = one_array(tmp_path, rng.normal(size=1000))
    entries = dict(unpack(path))
    for other in (entries["arrays/0000.npy"][:-8], entries["arrays/0000.npy"] + bytes(8)):
        pack(path, {**entries, "arrays/0000.npy": other}.items(), zipfile.ZIP_DEFLATED)
        refused(path, "bytes, its shape and dtype need 8000")
        patch_directory(path, 0, 24, "<I", 8128)
        refused(path, "ends after|does not match its hash|damaged")


def test_overlapping_entries(tmp_path):
    path = tmp_path / "a.bkit"
    array = np.random.default_rng(0).normal(size=5000)
    write_container(path, "A", {}, {"x": array, "y": array})
    offset = path.read_bytes().index(b"PK\x03\x04", 4)
    assert 40_000 < offset < 41_000
    patch_directory(path, 1, 42, "<I", 0)
    refused(path, "damaged")


def test_more_compressed_bytes_than_the_file_has(tmp_path):
    path = one_array(tmp_path, np.zeros(1000))
    patch_directory(path, 0, 20, "<II", 2**30, 2**30)
    refused(path, "entries overlap")


def test_huge_directory_is_not_read(tmp_path):
    path = tmp_path / "a.bkit"
    pack(path, [(f"arrays/{i:04d}.npy", b"") for i in range(20_000)])
    tracemalloc.start()
    refused(path, "directory of the zip file is larger")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "not that of a container"),
        (lambda m: m.update(format_version=FORMAT_VERSION + 1), "upgrade bayeskit"),
        (lambda m: m.update(format_version=0), "does not exist"),
        (lambda m: m.update(format_version=True), "'format_version'.* type int"),
        (lambda m: m.update(format_version="1"), "'format_version'.* type int"),
        (lambda m: m.update(kind="os.system"), "unknown kind"),
        (lambda m: m.update(kind=3), "'kind' .* type str"),
        (lambda m: m.update(parameters=[]), "'parameters' .* type dict"),
        (lambda m: m.update(versions={"numpy": 2}), "versions .* text"),
        (lambda m: m.update(extra=1), "must have the fields"),
        (lambda m: m.pop("versions"), "must have the fields"),
        (lambda m: m.update(arrays=[]), "'arrays' .* type dict"),
        (lambda m: m["arrays"].update({"": m["arrays"].pop("x")}), "without a name"),
        (lambda m: m["arrays"].update(x=3), "array 'x' must have the fields"),
        (lambda m: m["arrays"]["x"].update(pickle=True), "must have the fields"),
        (lambda m: m["arrays"]["x"].update(file="/etc/passwd"), "not those that"),
        (lambda m: m["arrays"]["x"].update(file="manifest.json"), "not those that"),
        (lambda m: m["arrays"].update(y=m["arrays"]["x"]), "not those that"),
        (lambda m: m["arrays"].pop("x"), "not those that"),
        (lambda m: m["arrays"]["x"].update(sha256="0" * 64), "does not match its hash"),
        (lambda m: m["arrays"]["x"].update(sha256=None), "'sha256' .* type str"),
    ],
)
def test_forged_manifest(tmp_path, change, message):
    refused(forge(one_array(tmp_path, np.zeros((2, 3))), change), message)


@pytest.mark.parametrize(
    "dtype",
    [
        *("|O", "O", "object", "<f8,<f8", ">f8", "f8", "=f8", "float64", "<f16", "<c32"),
        *("|S3", "|V8", "<U0", "<U999999999", "<U", "<M8[", "<M8[q]", "<M8[7fortnight]"),
        *("<M8[1s]", "<M8[999999999Y]x", "|b2", "", "<f8 ", "\u0663f8", "|T16", "{}"),
    ],
)
def test_forged_dtype(tmp_path, dtype):
    path = one_array(tmp_path, np.zeros((2, 3)))
    forge(path, lambda m: m["arrays"]["x"].update(dtype=dtype))
    refused(path, "which is not allowed")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([-1], "list of lengths >= 0"),
        ([-2, -3], "list of lengths >= 0"),
        ([2.0, 3], "list of lengths >= 0"),
        ([True, 6], "list of lengths >= 0"),
        ([[2, 3]], "list of lengths >= 0"),
        ("6", "'shape' .* type list"),
        ([2**62], "too large for any array"),
        ([10**400], "too large for any array"),
        ([0, 2**62], "too large for any array"),
        ([2**32, 2**32, 0], "too large for any array"),
        ([6], "header that does not match the manifest"),
        ([2, 2], "header that does not match the manifest"),
        ([2, 3] + [1] * 200, "header that does not match the manifest"),
    ],
)
def test_forged_shape(tmp_path, shape, message):
    path = one_array(tmp_path, np.zeros((2, 3)))
    forge(path, lambda m: m["arrays"]["x"].update(shape=shape))
    refused(path, message)


def header_of(description, version=b"\x01\x00"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(description)) + description


@pytest.mark.parametrize(
    ("entry", "shape", "message"),
    [
        (b"", [2], "not a .npy file"),
        (b"\x93NUMP", [2], "not a .npy file"),
        (npy(np.zeros(3)), [2], "does not match the manifest"),
        (npy(np.zeros(2, "f4")), [2], "does not match the manifest"),
        (npy(np.zeros(2, ">f8")), [2], "does not match the manifest"),
        (npy(np.zeros((2, 2), order="F")), [2, 2], "does not match the manifest"),
        (npy(np.zeros(2))[:-1], [2], "has 15 bytes, its shape and dtype need 16"),
        (npy(np.zeros(2)) + b"\0", [2], "has 17 bytes, its shape and dtype need 16"),
        (npy(np.zeros(2))[:20], [2], "does not match the manifest"),
        (header_of(b"{}" + b" " * 9999), [2], "header of 10001 bytes, more than 10000"),
        (header_of(b"{}" + b" " * 9998), [2], "does not match the manifest"),
        (header_of(b"__import__('os').abort()"), [2], "does not match the manifest"),
        (header_of(b"{}", version=b"\x02\x00"), [2], "not a .npy file of version 1.0"),
    ],
)
def test_forged_npy_entry(tmp_path, entry, shape, message):
    path = one_array(tmp_path, np.zeros(2))

    def change(manifest):
        manifest["arrays"]["x"]["shape"] = shape

    refused(forge(path, change, {"arrays/0000.npy": entry}), message)


def test_other_padding_of_the_header_is_read(tmp_path):
    path = one_array(tmp_path, np.arange(3.0))
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"
    entry = header_of(text + b" " * 200 + b"\n") + np.arange(3.0).tobytes()
    forge(path, lambda m: None, {"arrays/0000.npy": entry})
    np.testing.assert_array_equal(read_container(path).arrays["x"], np.arange(3.0))


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (np.array([True]), b"\x02", "neither 0 nor 1"),
        (np.array(["a"]), b"\0\0\x11\0", "beyond U\\+10FFFF"),
    ],
)
def test_forged_elements(tmp_path, good, bad, message):
    path = one_array(tmp_path, good)
    entry = npy(good)[: -good.nbytes] + bad
    refused(forge(path, lambda m: None, {"arrays/0000.npy": entry}), message)


def test_kinds(tmp_path):
    path = write_example(tmp_path / "a.bkit")
    for accepted in ({"Posterior"}, ["Kernel", "Posterior"], "Posterior", None):
        assert read_container(path, kinds=accepted).kind == "Posterior"
    for other in ({"Kernel"}, [], "PosteriorState"):
        refused(path, "unknown kind 'Posterior', expected one of", kinds=other)


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dtype", ["|O", "<f8"])
def test_pickle_inside_is_never_run(tmp_path, dtype):
    marker = tmp_path / "executed"
    entry = npy(np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    path = one_array(tmp_path, np.zeros(1))
    forge(
        path,
        lambda m: m["arrays"]["x"].update(dtype=dtype),
        {"arrays/0000.npy": entry},
    )
    refused(path, "not allowed|does not match")
    pack(path, [("manifest.json", pickle.dumps(Bomb(marker)))])
    refused(path, "not valid JSON")
    assert not marker.exists()
    # The same bytes do run where pickle is allowed, so the test is one.
    np.load(io.BytesIO(entry), allow_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"kind":', b'"kind":"Other","kind":', "two equal keys"),
        (b'"scale":0', b'"scale":0,"scale":0', "two equal keys"),
        (b"0.618034", b"NaN", "contains NaN"),
        (b"0.618034", b"-Infinity", "contains -Infinity"),
        (b"0.618034", b"1e999", "too large"),
        (b"0.618034", b"[" * 49 + b"]" * 49, "more than 50 levels deep"),
        (b"0.618034", b"[" * 500_000, "more than 50 levels deep"),
        (b"0.618034", b'{"a":' * 200_000, "more than 50 levels deep"),
        (b"0.618034", b"9" * 5000, "not valid JSON"),
        (b"0.618034", b"0.618035", "changed after writing"),
        (b"0.618034", b"\xff", "not valid JSON"),
        (b"0.618034", b"", "not valid JSON"),
        (b"0.618034", b'"' + b'\\"' * 500_000, "not valid JSON"),
        (b'{"format"', b'\xef\xbb\xbf{"format"', "not valid JSON"),
        (b'{"format"', b'[{"format"', "not valid JSON"),
        (b"0.618034", b'"' + b"x" * 2**21 + b'"', "manifest has .* bytes, more than"),
    ],
)
def test_hostile_json(tmp_path, old, new, message):
    path = write_example(tmp_path / "a.bkit")
    entries = dict(unpack(path))
    assert entries["manifest.json"].count(old) == 1
    entries["manifest.json"] = entries["manifest.json"].replace(old, new)
    refused(pack(path, entries.items()), message)


def test_brackets_in_text_are_not_depth(tmp_path):
    path = tmp_path / "a.bkit"
    parameters = {"a": "[" * 99, "b": '\\"' + "{" * 99}
    write_container(path, "A", parameters, {})
    assert read_container(path).parameters == parameters


# Memory and time


def test_memory_of_reading_is_the_size_of_the_file(tmp_path):
    size = 2**22
    path = one_array(tmp_path, np.random.default_rng(0).normal(size=size))
    tracemalloc.start()
    loaded = read_container(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.arrays["x"].nbytes == 8 * size
    assert peak < 8 * size + 8 * 2**20


def test_memory_of_a_hostile_manifest_is_bounded(tmp_path):
    path = tmp_path / "a.bkit"
    # The JSON that takes the most memory for its length.
    text = b"[" + b"[]," * 2**16 + b"1]"
    pack(path, [("manifest.json", text)])
    tracemalloc.start()
    refused(path, "not that of a container")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # With the longest text that is accepted, this is below 64 MiB.
    assert peak * container._MAX_MANIFEST / len(text) < 64 * 2**20


# Mutated files


def run_mutations(tmp_path, count, seed):
    """Read mutated files; return how many were refused and how many read the same."""
    path = write_example(tmp_path / "good.bkit")
    stored = path.read_bytes()
    expected = fingerprint(read_container(path))
    pack(path, unpack(path), zipfile.ZIP_DEFLATED)
    deflated = path.read_bytes()
    path.unlink()
    rng = random.Random(seed)
    mutated = tmp_path / "mutated.bkit"
    refusals = identical = 0
    for index in range(count):
        mutate = MUTATIONS[index % len(MUTATIONS)]
        mutated.write_bytes(mutate(rng, rng.choice((stored, stored, deflated))))
        try:
            loaded = read_container(mutated)
        except CorruptFileError:
            refusals += 1
            continue
        # With hashes made to fit, other values are as good as the first ones.
        if mutate is not forge_manifest:
            assert fingerprint(loaded) == expected, (seed, index)
        identical += 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["mutated.bkit"]
    return refusals, identical


def test_mutated_files_are_refused_or_read_the_same(tmp_path):
    refusals, identical = run_mutations(tmp_path, count=5_000, seed=1)
    assert refusals > 3_000
    # Times and versions in the zip headers mean nothing to the reader.
    assert identical > 100


@pytest.mark.slow
def test_very_many_mutated_files_are_refused_or_read_the_same(tmp_path):
    refusals, _ = run_mutations(tmp_path, count=100_000, seed=2)
    assert refusals > 60_000


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_truncation_at_every_byte_is_refused(tmp_path, compression):
    path = write_example(tmp_path / "a.bkit")
    pack(path, unpack(path), compression)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFileError, match="not a zip file"):
            read_container(path)


def test_every_flipped_bit_of_a_small_file(tmp_path):
    path = one_array(tmp_path, np.arange(2.0))
    content = path.read_bytes()
    expected = fingerprint(read_container(path))
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            assert fingerprint(read_container(path)) == expected, position
        except CorruptFileError:
            continue
