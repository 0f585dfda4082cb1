"""Many independent fits, one after another or spread over processes and machines."""

from bayeskit.models.many_fits.fitting import fit_many
from bayeskit.models.many_fits.outcome import ManyFits

__all__ = ["ManyFits", "fit_many"]
