"""Entries in Redis, and everything that may go wrong with it."""
