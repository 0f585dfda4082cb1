"""Scans over time: associative scans, Kalman filters and smoothers, hidden Markov models."""
