"""The built-in world of emoji scenes: its words, pictures, captions, networks and training.

Importing this package loads nothing; each module is imported by its own name.
"""
