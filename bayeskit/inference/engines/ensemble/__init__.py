"""The parts of EnsembleHMC: start, program, warm-up, stopping, failure, evidence."""
