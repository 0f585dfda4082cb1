"""Posteriors with reference draws that others made, and the rule of comparison."""
