"""Failures of the user's code as data, with advice."""
