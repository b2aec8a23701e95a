"""Data sets: a package a task, and what they share: listing, decoding, sampling."""
