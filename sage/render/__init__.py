"""Draws a file of prompts into a folder, on one machine or on a Ray cluster.

A run is planned once (`planning`): prompts are grouped, and groups are put together into units of
work that never change afterwards. Workers (`worker`) turn a unit into pictures and write nothing;
one process (`store`) writes pictures, the parts of the manifest and, at the end, the manifest. What
a picture looks like depends on its unit alone, so the number of workers, their order, kills and
retries leave no trace in the output.
"""
