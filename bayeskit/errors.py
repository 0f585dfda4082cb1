"""Every error and warning that bayeskit raises, each also a child of the built-in that fits.

A message says what was found, what was expected and what to do, with the name of the
argument and the first offending place; never the data in bulk.
"""

__all__ = [
    "BayeskitError",
    "BayeskitWarning",
    "CheckpointLockedError",
    "CheckpointMismatchError",
    "CheckpointWarning",
    "ConvergenceWarning",
    "CorruptFileError",
    "DegenerateWeightsError",
    "FitFailedError",
    "FitFailedWarning",
    "ImproperPriorError",
    "InitializationError",
    "InterruptedRunWarning",
    "InvalidDataError",
    "InvalidWeightsError",
    "KernelBuildError",
    "KeyReuseError",
    "LawMismatch",
    "MissingDensityError",
    "MissingDependencyError",
    "MissingGradientError",
    "NumericalWarning",
    "OutOfMetaPriorWarning",
    "ParticleCollapseError",
    "PriorFitWarning",
    "StalledError",
    "TooManyPathsError",
    "TraceLevelError",
    "UnenumerableDrawError",
    "UnfinishedRunError",
    "UnknownParameterError",
    "ValidationFailed",
    "WorkerDiedError",
]


class BayeskitError(Exception):
    """Base class of all errors raised on purpose by this package."""


class BayeskitWarning(UserWarning):
    """Base class of all warnings raised by this package."""


class ConvergenceWarning(BayeskitWarning):
    """A result is returned, but its own diagnostics say that it cannot be trusted yet."""


class NumericalWarning(BayeskitWarning):
    """Some density evaluations were not finite; they were counted and given weight zero."""


class OutOfMetaPriorWarning(BayeskitWarning):
    """An amortised posterior was asked for outside of what its network was trained on."""


class PriorFitWarning(BayeskitWarning):
    """A prior is far from the mixture that stands for it."""


class InterruptedRunWarning(BayeskitWarning):
    """A run was stopped early; its result is made of the draws until then."""


class CheckpointWarning(BayeskitWarning):
    """A checkpoint could not be written, locked, or read, and the run goes on without."""


class FitFailedWarning(BayeskitWarning):
    """Some of many fits failed; the others are returned."""


class CheckpointMismatchError(BayeskitError, ValueError):
    """A checkpoint belongs to other settings, data, model or key."""


class CheckpointLockedError(BayeskitError, RuntimeError):
    """Another process is using the checkpoint."""


class UnfinishedRunError(BayeskitError, TimeoutError):
    """A run was stopped before there was any result; its checkpoint goes on from there."""


class FitFailedError(BayeskitError, RuntimeError):
    """One of many fits failed.

    Attributes
    ----------
    index : int
        Which fit.
    traceback : str
        The traceback where it ran.
    """

    index: int
    traceback: str


class WorkerDiedError(FitFailedError):
    """The process that ran a fit ended: out of memory, killed, or crashed."""


class InvalidDataError(BayeskitError, ValueError):
    """Data that no model can use: NaN, infinities, shapes that do not match, no rows."""


class InvalidWeightsError(BayeskitError, ValueError):
    """Log-weights that are NaN or +inf."""


class DegenerateWeightsError(BayeskitError, ValueError):
    """Every log-weight is -inf: there is nothing to choose from."""


class ParticleCollapseError(BayeskitError, RuntimeError):
    """All particles have weight zero at some step of an algorithm."""


class StalledError(BayeskitError, RuntimeError):
    """An adaptive schedule stopped making progress."""


class NonFiniteObjectiveError(BayeskitError, FloatingPointError):
    """What training was to improve became NaN or infinite, and nothing was learned."""


class InitializationError(BayeskitError, RuntimeError):
    """No starting point with a finite density and a finite gradient was found."""


class KernelBuildError(BayeskitError, RuntimeError):
    """Compiled kernels were asked for, and this machine cannot make them."""


class ImproperPriorError(BayeskitError, ValueError):
    """The prior cannot be drawn from, so evidence and prior-started samplers do not exist."""


class MissingDensityError(BayeskitError, TypeError):
    """An algorithm needs a transition density that the model does not give."""


class MissingDependencyError(BayeskitError, ImportError):
    """Something was asked for by name that needs a package which is not installed."""


class MissingGradientError(BayeskitError, TypeError):
    """A kernel that follows gradients was given a target that has none."""


class LawMismatch(BayeskitError, TypeError):
    """Two blocks were composed whose laws do not fit: the targets differ."""


class KeyReuseError(BayeskitError, ValueError):
    """A random key was consumed twice."""


class TraceLevelError(BayeskitError, TypeError):
    """An enumerating key was used inside a raw jit, vmap, scan or cond."""


class UnenumerableDrawError(BayeskitError, TypeError):
    """A continuous draw was asked of an enumerating key."""


class UnknownParameterError(BayeskitError, LookupError):
    """A function of a model asks for a parameter that the model does not name."""


class TooManyPathsError(BayeskitError, ValueError):
    """Exact enumeration would need more paths than allowed."""


class ValidationFailed(BayeskitError, AssertionError):
    """A block does not preserve what its law says it preserves."""


class CorruptFileError(BayeskitError, ValueError):
    """A file is not a container of ours, or was changed since it was written."""
