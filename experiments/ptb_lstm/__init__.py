"""A language model that tunes its dropout."""
