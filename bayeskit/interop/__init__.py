"""Neighbours: one file each."""
