"""The extractor against a corpus of plots with known data."""
