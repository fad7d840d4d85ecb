"""Searches that are started at due times."""
