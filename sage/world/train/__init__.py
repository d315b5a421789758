"""Makes the built-in model: ``python -m sage.world.train all --hours H`` from an empty folder.

Importing this package loads nothing; each module is imported by its own name.
"""
