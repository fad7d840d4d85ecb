"""Targets: which there are, their predictors, what they price, and how they are calibrated."""
