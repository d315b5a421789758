"""The method: plans, grouping, sampling, cost and losses.

Imports torch, numpy and the standard library.
"""
