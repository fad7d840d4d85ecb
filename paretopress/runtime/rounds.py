"""How long measuring goes on: what a plan counts with before anything is measured."""

from __future__ import annotations

MIN_ROUNDS, ROUNDS, MAX_ROUNDS = 3, 5, 60
LEAST_S = 12.0
"""Rounds are spread over so much time at least, where there is as much: busy moments last for seconds."""
LIMIT_S = 60.0
"""No further round begins after so many seconds, unless a caller says otherwise."""
