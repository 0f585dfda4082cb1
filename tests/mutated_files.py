"""Files of the container with damage of all kinds, and with contents that a forger chose."""

import hashlib
import io
import json
import struct
import zipfile

import numpy as np


def unpack(path):
    """Return the entries of a zip file, in order."""
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def pack(path, entries, compression=zipfile.ZIP_STORED):
    """Write a zip file with these entries, equal names included."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.fp.flush()
            archive.NameToInfo.pop(info.filename, None)
            archive.writestr(info, content)
    return path


def seal(manifest):
    """Return the text of a manifest with a hash that fits, as a forger would."""
    manifest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(manifest, separators=(",", ":")).encode()
    manifest["sha256"] = hashlib.sha256(text).hexdigest()
    return json.dumps(manifest).encode()


def unpack_bytes(content):
    return unpack(io.BytesIO(content))


INTERESTING = (0, 1, 0x14, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
JUNK = (None, True, 0, 1, -1, 2**70, 0.5, "", "x", "|O", "../x", [], {}, [[]], [1, 2])


def flip_bits(rng, content):
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def move_bytes(rng, content):
    """Delete, repeat, overwrite or insert a piece."""
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    end = min(end, start + rng.choice((1, 4, 30, 1000)))
    piece = rng.choice((b"", content[start:end] * 2, rng.randbytes(end - start), bytes(8)))
    return content[:start] + piece + content[end:]


def change_zip_field(rng, content):
    """Put a telling number into a header of the zip file."""
    content = bytearray(content)
    marks = [i for i in range(len(content) - 4) if content[i : i + 2] == b"PK"]
    layout = rng.choice(("<H", "<I"))
    start = min(rng.choice(marks) + rng.randrange(2, 47), len(content) - 4)
    mask = 2 ** (8 * struct.calcsize(layout)) - 1
    struct.pack_into(layout, content, start, rng.choice(INTERESTING) & mask)
    return bytes(content)


def change_entries(rng, content):
    """Swap, rename, repeat, drop or damage entries of an otherwise sound zip file."""
    entries = unpack_bytes(content)
    first, second = (rng.randrange(len(entries)) for _ in range(2))
    (name, data), (other_name, other_data) = entries[first], entries[second]
    match rng.randrange(6):
        case 0:
            entries[first], entries[second] = (name, other_data), (other_name, data)
        case 1:
            entries[first] = (rng.choice((other_name, name + "x", "arrays/7.npy")), data)
        case 2:
            entries.insert(second, entries[first])
        case 3:
            del entries[first]
        case 4:
            entries[first], entries[second] = entries[second], entries[first]
        case 5:
            entries[first] = (name, rng.choice((flip_bits, move_bytes))(rng, data))
    stream = io.BytesIO()
    pack(stream, entries, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return stream.getvalue()


def places(value):
    """List the (parent, key) of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def change_manifest(rng, content, sealed=False):
    """Replace, drop or exchange values of the manifest."""
    entries = dict(unpack_bytes(content))
    manifest = json.loads(entries["manifest.json"])
    for _ in range(rng.choice((1, 1, 3))):
        parent, key = rng.choice(list(places(manifest)))
        other, other_key = rng.choice(list(places(manifest)))
        match rng.randrange(3):
            case 0:
                parent[key] = rng.choice(JUNK)
            case 1:
                del parent[key]
            case 2:
                parent[key], other[other_key] = (
                    json.loads(json.dumps(other[other_key])),
                    json.loads(json.dumps(parent[key])),
                )
    entries["manifest.json"] = seal(manifest) if sealed else json.dumps(manifest).encode()
    stream = io.BytesIO()
    pack(stream, entries.items())
    return stream.getvalue()


def forge_manifest(rng, content):
    return change_manifest(rng, content, sealed=True)


MUTATIONS = (
    flip_bits,
    flip_bits,
    move_bytes,
    change_zip_field,
    change_zip_field,
    change_entries,
    change_manifest,
    forge_manifest,
)


# Contents that a forger chose: sound files in every respect but what they say


def junk_arrays(array):
    """Return arrays that might stand in the place of one."""
    yield np.zeros(0)
    yield np.asarray(np.nan)
    yield np.full((2, 3), np.inf)
    yield np.array(["text"])
    yield np.full(array.shape, -1, np.int64)
    yield array[:1] if array.ndim else array
    yield array.T
    yield array.ravel()
    yield array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.str_)
    yield np.concatenate([array, array]) if array.ndim else np.stack([array, array])


def forge_contents(rng, contents):
    """Return parameters and arrays of a container, changed in a few places."""
    parameters = json.loads(json.dumps(contents.parameters))
    arrays = dict(contents.arrays)
    for _ in range(rng.choice((1, 1, 2))):
        found = list(places(parameters))
        if found and rng.random() < 0.5:
            parent, key = rng.choice(found)
            other, other_key = rng.choice(found)
            match rng.randrange(3):
                case 0:
                    parent[key] = json.loads(json.dumps(rng.choice(JUNK)))
                case 1:
                    del parent[key]
                case 2:
                    parent[key] = json.loads(json.dumps(other[other_key]))
            continue
        first, second = rng.choice(list(arrays)), rng.choice(list(arrays))
        match rng.randrange(4):
            case 0:
                arrays[first] = rng.choice(list(junk_arrays(arrays[first])))
            case 1:
                arrays[first], arrays[second] = arrays[second], arrays[first]
            case 2 if len(arrays) > 1:
                del arrays[first]
            case 3:
                arrays[first + rng.choice(("x", "/0", ":"))] = arrays.pop(first)
    return parameters, arrays
