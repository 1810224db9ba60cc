"""Shared memory: the chunks of this worker and of others, and where results are placed."""
