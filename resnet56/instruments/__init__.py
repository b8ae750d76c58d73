"""Instruments: measurements on a network, during training or after it, that show what shortcuts do.

Each is a function with plain arguments that returns a tidy table or arrays; :mod:`resnet56.plots` draws them, and
:class:`resnet56.records.measurement.Measurement` keeps a table with its conditions on disk.
"""
