"""Recipes that allocation made when it still knew moves of three kinds; see `tests.search.test_golden_recipes`."""
