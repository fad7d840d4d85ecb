"""The calibration kit: random networks that cover what compressed CNNs are made of, timed on this device.

Needs onnxruntime and numpy, nothing else: it runs where the target is.
"""
