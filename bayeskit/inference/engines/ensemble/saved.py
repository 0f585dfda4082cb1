"""What a checkpoint keeps of a run of EnsembleHMC: its start, its noise, and its draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.inference.engines.ensemble.modes import Mode, blank_path
from bayeskit.inference.engines.ensemble.program import Program, Record
from bayeskit.inference.engines.ensemble.start import Mixture, Start

__all__ = [
    "START_LIKE",
    "blank_record",
    "generator_words",
    "restored_start",
    "saved_start",
    "set_generator",
]

#: The dtypes of a saved start.
START_LIKE = {
    "positions": np.zeros((1, 1)),
    "exponent": np.zeros(()),
    "position": np.zeros((1, 1)),
    "log_density": np.zeros(1),
    "root": np.zeros((1, 1, 1)),
    "proper": np.zeros(1, bool),
    "separate": np.zeros(1, np.int64),
    "mapping": np.zeros(2, bool),
    "num_gradients": np.zeros((), np.int64),
    "generator": np.zeros(13, np.uint64),
}


def saved_start(start: Start, program: Program, generator: np.random.Generator) -> dict:
    """Return a start, and what else its search has settled, as arrays."""
    modes = start.mixture.modes
    # The identity counts: modes are equal to themselves alone.
    separate = [next(i for i, m in enumerate(modes) if m is s) for s in start.separate_modes]
    return {
        "positions": np.asarray(start.positions, np.float64),
        "exponent": np.asarray(start.exponent, np.float64),
        "position": np.stack([mode.position for mode in modes]),
        "log_density": np.array([mode.log_density for mode in modes], np.float64),
        "root": np.stack([mode.root for mode in modes]),
        "proper": np.array([mode.proper for mode in modes], bool),
        "separate": np.array(separate, np.int64),
        "mapping": np.array(program.mapping, bool),
        "num_gradients": np.asarray(program.num_gradients, np.int64),
        "generator": generator_words(generator),
    }


def restored_start(saved: dict, program: Program, generator: np.random.Generator) -> Start:
    """Return the start that was saved, and set what else its search had settled."""
    fields = zip(
        saved["position"], saved["log_density"], saved["root"], saved["proper"], strict=True
    )
    modes = [Mode(x, float(v), root, bool(p), blank_path()) for x, v, root, p in fields]
    program.mapping = tuple(map(bool, saved["mapping"]))  # type: ignore[assignment]
    program.num_gradients = int(saved["num_gradients"])
    set_generator(generator, saved["generator"])
    return Start(
        saved["positions"],
        Mixture(modes),
        float(saved["exponent"]),
        [modes[i] for i in saved["separate"]],
    )


def generator_words(generator: np.random.Generator) -> np.ndarray:
    """Return the state of a Philox generator as 13 words."""
    state: Any = generator.bit_generator.state
    inner = state["state"]
    last = (state["buffer_pos"], state["has_uint32"], state["uinteger"])
    return np.concatenate(
        [inner["counter"], inner["key"], state["buffer"], np.array(last, np.uint64)]
    ).astype(np.uint64)


def set_generator(generator: np.random.Generator, words: np.ndarray) -> None:
    """Put a Philox generator into the state that :func:`generator_words` returned."""
    generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": words[:4], "key": words[4:6]},
        "buffer": words[6:10],
        "buffer_pos": int(words[10]),
        "has_uint32": int(words[11]),
        "uinteger": int(words[12]),
    }


def blank_record(dtype: Any) -> Record:
    """Return a record of no iterations, with its dtypes and numbers of axes."""
    vectors, real = np.zeros((0, 0, 0), dtype), np.zeros((0, 0), dtype)
    flag, shared = np.zeros((0, 0), bool), np.zeros(0, dtype)
    return Record(vectors, vectors, real, flag, flag, shared, np.zeros(0, np.int32))
